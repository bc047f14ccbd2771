/** Asks the thread of inside.ts one question. */
import { Worker } from 'node:worker_threads';
import { CarrelError } from '#base/errors.ts';
import { within } from '#base/deadline.ts';
import { type Question, type Reply, reply } from './inside.ts';

const limitMs = 20_000;

/** The answer, or undefined if the process is gone. What goes wrong on our side is thrown. */
export async function askInside(
  asked: Question,
): Promise<Exclude<Reply, { kind: 'gone' | 'fault' }> | undefined> {
  const worker = new Worker(new URL('./inside.ts', import.meta.url), {
    workerData: asked,
    // descriptors are opened and closed by system calls of our own
    trackUnmanagedFds: false,
  });
  try {
    const said = await within(
      limitMs,
      `a look at process ${asked.process.pid}`,
      new Promise<unknown>((resolve, reject) => {
        worker.once('message', resolve);
        worker.once('error', reject);
        worker.once('exit', () =>
          reject(new CarrelError('helper_failed', 'the observing thread ended without an answer')),
        );
      }),
    );
    const parsed = reply.parse(said);
    if (parsed.kind === 'fault')
      throw new CarrelError('helper_failed', `cannot observe the machine: ${parsed.message}`);
    return parsed.kind === 'gone' ? undefined : parsed;
  } finally {
    await worker.terminate();
  }
}

export async function hostnameOf(process: Question['process']): Promise<string | undefined> {
  const said = await askInside({ kind: 'hostname', process });
  return said?.kind === 'hostname' ? said.hostname : undefined;
}
