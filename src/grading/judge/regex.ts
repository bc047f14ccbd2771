/**
 * Regular expressions of authors on the output of strangers: in a thread that can be ended, because a pattern
 * such as (a+)+$ takes exponential time on a text made for it, and the main thread must never wait.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { within } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';

const program = `
const { parentPort } = require('node:worker_threads');
parentPort.on('message', ({ source, text }) => {
  let found;
  try { found = new RegExp(source, 'mu').test(text); } catch (error) { found = String(error); }
  parentPort.postMessage(found);
});`;

const defaultLimitMs = 2000;

export interface RegexGuard extends AsyncDisposable {
  /** Does the pattern occur in the text? A `deadline_exceeded` error if that takes longer than the limit. */
  matches(source: string, text: string): Promise<boolean>;
  close(): Promise<void>;
}

/** Starting a thread takes some milliseconds, on a busy host more; that is not the pattern's fault. */
const startMs = 20_000;

async function startThread(): Promise<Worker> {
  const worker = new Worker(program, { eval: true, env: {}, resourceLimits: { maxOldGenerationSizeMb: 64 } });
  try {
    await within(startMs, 'the thread for patterns to start', once(worker, 'online'));
    return worker;
  } catch (error) {
    await worker.terminate();
    throw error;
  }
}

/** One thread, made at the first use; a pattern that takes too long costs the thread, and the next use makes another. */
export function openRegexGuard({ limitMs = defaultLimitMs }: { limitMs?: number } = {}): RegexGuard {
  let worker: Worker | undefined;
  let queue: Promise<unknown> = Promise.resolve();

  async function ask(source: string, text: string): Promise<boolean> {
    const mine = (worker ??= await startThread());
    mine.ref();
    const given = Promise.withResolvers<unknown>();
    const ended = (): void => given.reject(new CarrelError('internal', 'the thread for patterns ended'));
    mine.on('message', given.resolve).on('error', given.reject).on('exit', ended);
    try {
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
      mine.postMessage({ source, text });
      const found = await within(limitMs, `the pattern ${source} on this text`, given.promise);
      if (typeof found === 'boolean') return found;
      throw new CarrelError('lab_invalid', `the pattern ${source}: ${String(found)}`);
    } catch (error) {
      worker = undefined;
      await mine.terminate();
      throw error;
    } finally {
      mine.off('message', given.resolve).off('error', given.reject).off('exit', ended);
      mine.unref();
    }
  }

  const close = async (): Promise<void> => {
    await queue;
    const old = worker;
    worker = undefined;
    await old?.terminate();
  };
  return {
    matches(source, text) {
      const turn = queue.then(() => ask(source, text));
      queue = turn.catch(() => {});
      return turn;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
