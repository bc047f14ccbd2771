/** The program of `carrel worker`: `node src/server/worker-main.ts --data DIR [--cache DIR]`. */
import { createLogger } from '#base/log.ts';
import { parseArguments, runUntilTold } from './process.ts';

const log = createLogger();
try {
  const { data, cache } = parseArguments(process.argv.slice(2));
  await runUntilTold({
    log,
    untilStdinEnds: false,
    async start() {
      const { startWorkerProcess } = await import('./worker.ts');
      return startWorkerProcess({ dataDirectory: data, cache, log });
    },
  });
} catch (error) {
  log.error('the worker could not start', { error });
  process.exit(1);
}
