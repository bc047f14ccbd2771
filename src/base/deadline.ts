/** Every wait has a limit, and the limit says what was waited for. */
import { CarrelError } from './errors.ts';

/** The longest that a timer can be set to, 24 days: one that is set to more fires at once. */
export const longestTimerMs = 2 ** 31 - 1;

/** Waits `ms`, or less if the signal aborts (then it throws the signal's reason). */
export async function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(
      () => {
        signal?.removeEventListener('abort', stop);
        resolve();
      },
      Math.min(ms, longestTimerMs),
    );
    signal?.addEventListener('abort', stop, { once: true });
  });
}

/**
 * The promise's value, or a `deadline_exceeded` error after `ms`. The work itself is not stopped:
 * where it can be, give it a signal too.
 *
 * @example await within(5000, 'the database to answer', client.connect());
 */
export async function within<T>(ms: number, what: string, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new CarrelError('deadline_exceeded', `waited ${ms} ms for ${what}`)),
      Math.min(ms, longestTimerMs),
    );
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * The work's end, or the signal's reason as soon as it aborts. The work itself is not stopped; how it ends after
 * that nobody hears.
 */
export async function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  work.catch(() => undefined); // before anything can throw: nobody waits for it any more then
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = (): void => reject(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/** Polls `probe` until it gives a value other than undefined; for states that nothing announces. */
export async function until<T>(
  ms: number,
  what: string,
  probe: () => T | undefined | Promise<T | undefined>,
  { everyMs = 10, signal }: { everyMs?: number; signal?: AbortSignal } = {},
): Promise<T> {
  const end = performance.now() + ms;
  for (;;) {
    const value = await probe();
    if (value !== undefined) return value;
    if (performance.now() >= end) throw new CarrelError('deadline_exceeded', `waited ${ms} ms for ${what}`);
    await sleep(everyMs, signal);
  }
}
