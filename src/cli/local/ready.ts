/** Waiting until a daemon answers, and saying why it does not. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { sleep } from '#base/deadline.ts';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { createClient } from '#contract/client.ts';
import type { Reply } from '#contract/route.ts';
import type { Api } from '#contract/api.ts';
import { askDoorman } from './directory.ts';

export type Health = Reply<Api['getHealth']>;

const degradedAfterMs = 15_000;

/** The end of a log, for an error's hint. */
export async function tailOf(path: string, lines = 5): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trimEnd().split('\n').slice(-lines).join('\n  ');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return '';
    throw error;
  }
}

/** A daemon that has died this often since the start will not come up by itself. */
const hopelessAfter = 3;

async function keepsDying(data: string): Promise<string | undefined> {
  const restarts = (await askDoorman(data))?.daemonRestarts ?? 0;
  return restarts >= hopelessAfter ? `the daemon ended ${restarts} times` : undefined;
}

/**
 * Resolves with the cloud's health once it answers and its database does. `over` says whether there is
 * nobody left to wait for.
 */
export async function untilReady(
  url: string,
  data: string,
  { limitMs = 90_000, over = () => undefined }: { limitMs?: number; over?: () => string | undefined } = {},
): Promise<Health> {
  const client = createClient({ base: url });
  const began = performance.now();
  const end = began + limitMs;
  let why = 'it does not answer';
  while (performance.now() < end) {
    const reason = over() ?? (await keepsDying(data));
    if (reason !== undefined) {
      why = reason;
      break;
    }
    try {
      const health = await client.getHealth({ params: {} }, { signal: AbortSignal.timeout(2000) });
      if (health.status === 'ok') return health;
      // without isolation the cloud still answers, and says why itself
      if (health.database === 'ok' && performance.now() - began > degradedAfterMs) return health;
      why = health.database === 'ok' ? 'its isolation runtime is not up' : 'its database is not up';
    } catch (error) {
      if (error instanceof CarrelError) why = error.message;
    }
    await sleep(50);
  }
  const log = join(data, 'log', 'daemon.log');
  const said = lastFailure(await tailOf(log, 50));
  throw new CarrelError('unavailable', `the cloud is not ready: ${said ?? why}`, {
    hint: said === undefined ? `the end of ${log}:\n  ${await tailOf(log)}` : `more in ${log}`,
  });
}

const failure = z.looseObject({ level: z.literal('error'), error: z.looseObject({ message: z.string() }) });

/** The message of the last error in a log of JSON lines. */
function lastFailure(log: string): string | undefined {
  for (const line of log.split('\n').toReversed()) {
    try {
      const parsed = failure.safeParse(JSON.parse(line));
      if (parsed.success) return parsed.data.error.message;
    } catch {
      // not a line of the log's own
    }
  }
  return undefined;
}
