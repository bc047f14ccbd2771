/** What the daemon and a worker have in common as processes: arguments, the end of stdin, signals, a last resort. */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { CarrelError, messageOf } from '#base/errors.ts';
import type { Logger } from '#base/log.ts';
import { parseListen, type Endpoint } from '#fabric/listeners.ts';

export interface Arguments {
  readonly data: string;
  readonly cache: string | undefined;
  readonly listen: readonly Endpoint[];
  /** The OS-Cloud routes take everybody on this host. */
  readonly osCloudOpen: boolean;
}

/** `--data DIR [--cache DIR] [--listen ADDRESS]... [--oscloud-open]`; DIR is CARREL_DATA or /var/lib/carrel unless given. */
export function parseArguments(argv: readonly string[], env: NodeJS.ProcessEnv = process.env): Arguments {
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: {
        data: { type: 'string' },
        cache: { type: 'string' },
        listen: { type: 'string', multiple: true, default: [] },
        'oscloud-open': { type: 'boolean', default: false },
      },
    });
    return {
      data: resolve(values.data ?? env['CARREL_DATA'] ?? '/var/lib/carrel'),
      cache: values.cache === undefined ? undefined : resolve(values.cache),
      listen: values.listen.map(parseListen),
      osCloudOpen: values['oscloud-open'],
    };
  } catch (cause) {
    if (cause instanceof CarrelError) throw cause;
    throw new CarrelError('invalid_request', messageOf(cause), { cause });
  }
}

/** An orderly end that takes longer than this is cut short; what is left is recovered at the next start. */
const LAST_RESORT_MS = 13_000;

export interface RunOptions {
  readonly log: Logger;
  readonly start: () => Promise<{ close(): Promise<void> }>;
  /** The end of stdin means the end: stdin is a pipe from the doorman. */
  readonly untilStdinEnds: boolean;
}

/** Runs a service until it is told to end; sets the exit status. */
export async function runUntilTold({ log, start, untilStdinEnds }: RunOptions): Promise<void> {
  const told = Promise.withResolvers<string>();
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
    process.on(signal, () => told.resolve(signal));
  if (untilStdinEnds) {
    process.stdin.on('end', () => told.resolve('end of stdin'));
    process.stdin.on('error', () => told.resolve('end of stdin'));
    process.stdin.resume();
  }
  // Whoever writes our log may be gone; that is no reason to die.
  process.stderr.on('error', () => undefined);
  process.on('unhandledRejection', (error) => log.error('an error that nobody handled', { error }));
  process.on('uncaughtException', (error) => {
    log.error('a mistake of ours: ending, to be started again', { error });
    process.exit(70);
  });
  const lastResort = (): void => {
    setTimeout(() => {
      log.error('the orderly end took too long');
      process.exit(1);
    }, LAST_RESORT_MS).unref();
  };
  const starting = start();
  const reason = await Promise.race([told.promise, starting.then(() => undefined)]).catch(() => undefined);
  if (reason !== undefined) lastResort();
  const service = await starting;
  const why = reason ?? (await told.promise);
  log.info('ending', { why });
  lastResort();
  await service.close();
  log.info('ended');
  process.exit(0);
}
