/** The command line. `carrel` (the launcher) starts this with the Node that the project brings along. */
import { runCli } from './program.ts';

// A reader that goes away (`carrel events | head`) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

process.exitCode = await runCli(process.argv.slice(2));
