/** For tests: a daemon of its own process over a bed that is suspended, to be killed with SIGKILL. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { within } from '#base/deadline.ts';
import type { Bed } from './testing.ts';

/** A loaded host. */
const readyMs = 60_000;

export interface Victim extends AsyncDisposable {
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
}

/** Starts it, and waits until it is at work. */
export async function startVictim(
  { dataDirectory, store, images }: Pick<Bed, 'dataDirectory' | 'store' | 'images'>,
  { leaseMs = 1000, reconciles = true } = {},
): Promise<Victim> {
  const child = spawn(
    process.execPath,
    [
      join(import.meta.dirname, 'daemon.child.ts'),
      dataDirectory,
      JSON.stringify(store.connection),
      JSON.stringify({ leaseMs, reconciles }),
    ],
    { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, CARREL_CACHE: images.layout.cache } },
  );
  const exit = once(child, 'exit');
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exit;
  };
  try {
    const early = exit.then(() => {
      throw new Error('the daemon ended by itself');
    });
    await within(readyMs, 'the daemon', Promise.race([once(child.stdout, 'data'), early]));
    return { kill, [Symbol.asyncDispose]: kill };
  } catch (error) {
    await kill();
    throw error;
  }
}
