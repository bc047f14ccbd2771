/** The daemon's program: `node src/server/main.ts --data DIR [--cache DIR] [--listen ADDRESS] [--oscloud-open]`. */
import { enableCompileCache } from 'node:module';
import { join } from 'node:path';

// The compiled form of this program is kept: the second start is twice as fast.
enableCompileCache(join(process.env['CARREL_CACHE'] ?? '/var/cache/carrel', 'node'));
const { createLogger } = await import('#base/log.ts');
const { parseArguments, runUntilTold } = await import('./process.ts');
const log = createLogger();
try {
  const { data, cache, listen, osCloudOpen } = parseArguments(process.argv.slice(2));
  await runUntilTold({
    log,
    untilStdinEnds: listen.length === 0,
    async start() {
      const { startDaemon } = await import('./daemon.ts');
      return startDaemon({ dataDirectory: data, cache, listen, osCloudOpen, log });
    },
  });
} catch (error) {
  log.error('the daemon could not start', { error });
  process.exit(1);
}
