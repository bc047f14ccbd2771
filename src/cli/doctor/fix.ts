/** Installing what is missing, with every service start denied: the launcher's own step, run again. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { CarrelError } from '#base/errors.ts';

const launcher = fileURLToPath(new URL('../../../carrel', import.meta.url));

/** Runs the launcher's set-up for a command that needs the whole host. Its progress goes to standard error. */
export async function fix(): Promise<void> {
  if (process.getuid?.() !== 0)
    throw new CarrelError('forbidden', 'packages are installed by root', {
      hint: 'sudo carrel doctor --fix',
    });
  const child = spawn(launcher, ['isolate', '--help'], {
    stdio: ['ignore', 'ignore', 'inherit'],
    // Who asks for the set-up here means it, also where other commands were told to leave it out.
    env: { ...process.env, CARREL_SKIP_SETUP: '' },
  });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', resolve);
  });
  if (status !== 0) throw new CarrelError('helper_failed', `the set-up ended with status ${status}`);
}
