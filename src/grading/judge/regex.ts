/**
 * Regular expressions of authors on the output of strangers: in a thread that can be ended, because a pattern
 * such as (a+)+$ takes exponential time on a text made for it, and the main thread must never wait.
 */
import { Worker } from 'node:worker_threads';
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

/** One thread, made at the first use; a pattern that takes too long costs the thread, and the next use makes another. */
export function openRegexGuard({ limitMs = defaultLimitMs }: { limitMs?: number } = {}): RegexGuard {
  let worker: Worker | undefined;
  let queue: Promise<unknown> = Promise.resolve();

  async function ask(source: string, text: string): Promise<boolean> {
    const mine = (worker ??= new Worker(program, {
      eval: true,
      env: {},
      resourceLimits: { maxOldGenerationSizeMb: 64 },
    }));
    mine.ref();
    let timer: NodeJS.Timeout | undefined;
    const end = async (): Promise<void> => {
      if (worker === mine) worker = undefined;
      await mine.terminate();
    };
    try {
      const answer = await new Promise<unknown>((resolve, reject) => {
        mine.once('message', resolve);
        // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has no origin
        mine.postMessage({ source, text });
        mine.once('error', reject);
        mine.once('exit', () => reject(new CarrelError('internal', 'the thread for patterns ended')));
        timer = setTimeout(
          () =>
            reject(
              new CarrelError(
                'deadline_exceeded',
                `the pattern ${source} takes more than ${limitMs} ms on this text`,
              ),
            ),
          limitMs,
        );
      });
      if (typeof answer === 'boolean') return answer;
      throw new CarrelError('lab_invalid', `the pattern ${source}: ${String(answer)}`);
    } catch (error) {
      await end();
      throw error;
    } finally {
      clearTimeout(timer);
      mine.removeAllListeners();
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
