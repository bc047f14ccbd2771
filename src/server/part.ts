/**
 * A part of the daemon that may fail without ending it: opened in the background, tried again after a failure,
 * and closed in order. Whoever needs it while it is not there gets `unavailable`, which clients and jobs repeat.
 */
import { sleep, within } from '#base/deadline.ts';
import { CarrelError, messageOf } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';

export interface Part<T> {
  readonly name: string;
  /** Is it there? */
  readonly up: boolean;
  /** The part, or `unavailable` with the reason. */
  get(): T;
  /** The same, but while the first attempt to open it is under way, its end is waited for (at most `ms`). */
  soon(ms?: number): Promise<T>;
  /** Resolves with the part when it is there; rejects when it is closed before. */
  readonly opened: Promise<T>;
  /** No more tries; closes what was opened. */
  close(): Promise<void>;
}

export interface PartOptions<T> {
  readonly name: string;
  readonly open: () => Promise<T>;
  readonly close: (part: T) => Promise<void> | void;
  readonly log?: Logger;
  readonly firstMs?: number;
  readonly longestMs?: number;
}

export function startPart<T>({
  name,
  open,
  close,
  log = silent,
  firstMs = 500,
  longestMs = 30_000,
}: PartOptions<T>): Part<T> {
  const stopping = new AbortController();
  const { promise: opened, resolve, reject } = Promise.withResolvers<T>();
  opened.catch(() => undefined); // whoever waits for it hears of it
  let part: { readonly value: T } | undefined;
  let reason = 'still being opened';
  const { promise: attempted, resolve: afterFirst } = Promise.withResolvers<void>();

  const run = async (): Promise<void> => {
    for (let pause = firstMs; !stopping.signal.aborted; pause = Math.min(pause * 2, longestMs)) {
      const began = performance.now();
      try {
        part = { value: await open() };
        resolve(part.value);
        afterFirst();
        log.info(`${name} is up`, { ms: Math.round(performance.now() - began) });
        return;
      } catch (error) {
        reason = messageOf(error);
        afterFirst();
        log.error(`${name} cannot be opened`, { error, again: pause });
      }
      await sleep(pause, stopping.signal).catch(() => undefined);
    }
  };
  const running = run();

  const get = (): T => {
    if (part) return part.value;
    throw new CarrelError('unavailable', `not available now: ${name} (${reason})`, {
      hint: 'it is tried again by itself; see: carrel doctor',
    });
  };

  return {
    name,
    get up() {
      return part !== undefined;
    },
    get,
    async soon(ms = 5000) {
      if (!part) await within(ms, `${name} to open`, attempted).catch(() => undefined);
      return get();
    },
    opened,
    async close() {
      stopping.abort();
      reject(new CarrelError('unavailable', `${name} has been closed`));
      await running;
      const last = part;
      part = undefined;
      reason = 'the cloud is shutting down';
      afterFirst();
      if (last) await close(last.value);
    },
  };
}
