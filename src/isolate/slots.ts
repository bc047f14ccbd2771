/**
 * A pool of things that serve one caller at a time: first come, first served, with a bounded queue. A slot that
 * broke is made anew before it serves again; the caller who had it gets the error.
 */
import { CarrelError } from '#base/errors.ts';

export interface SlotPool<T> {
  use<R>(work: (slot: T) => Promise<R>, options?: { signal?: AbortSignal | undefined }): Promise<R>;
  close(): Promise<void>;
}

export interface SlotPoolOptions<T> {
  readonly size: number;
  /** Callers that may wait; more are refused at once. */
  readonly queue?: number;
  readonly open: (index: number) => Promise<T>;
  readonly usable: (slot: T) => boolean;
  readonly close: (slot: T, index: number) => Promise<void>;
}

interface Waiter {
  readonly take: (index: number) => void;
  readonly fail: (error: unknown) => void;
}

export function createSlotPool<T>({
  size,
  queue = 10_000,
  open,
  usable,
  close,
}: SlotPoolOptions<T>): SlotPool<T> {
  const slots: (T | undefined)[] = Array.from({ length: size }, () => undefined);
  const free = slots.map((_, index) => index);
  const waiters: Waiter[] = [];
  const busy = new Set<Promise<unknown>>();
  let closed = false;

  const acquire = async (signal: AbortSignal | undefined): Promise<number> => {
    signal?.throwIfAborted();
    if (closed) throw new CarrelError('unavailable', 'The sandboxes have been closed');
    const index = free.shift();
    if (index !== undefined) return index;
    if (waiters.length >= queue)
      throw new CarrelError('no_capacity', `${waiters.length} runs are waiting already`, {
        hint: 'try again later',
      });
    return await new Promise<number>((resolve, reject) => {
      const leave = (): void => {
        const place = waiters.indexOf(waiter);
        if (place >= 0) waiters.splice(place, 1);
        reject(signal?.reason);
      };
      const waiter: Waiter = {
        take: (given) => {
          signal?.removeEventListener('abort', leave);
          resolve(given);
        },
        fail: reject,
      };
      waiters.push(waiter);
      signal?.addEventListener('abort', leave, { once: true });
    });
  };

  const release = (index: number): void => {
    const next = waiters.shift();
    if (next) next.take(index);
    else free.push(index);
  };

  const serve = async <R>(index: number, work: (slot: T) => Promise<R>): Promise<R> => {
    let slot = slots[index];
    if (slot === undefined || !usable(slot)) {
      slots[index] = undefined;
      if (slot !== undefined) await close(slot, index);
      slot = await open(index);
      slots[index] = slot;
    }
    return await work(slot);
  };

  return {
    use: async (work, { signal } = {}) => {
      const index = await acquire(signal);
      const job = serve(index, work).finally(() => {
        busy.delete(job);
        release(index);
      });
      busy.add(job);
      return await job;
    },
    close: async () => {
      closed = true;
      for (const waiter of waiters.splice(0))
        waiter.fail(new CarrelError('unavailable', 'The sandboxes have been closed'));
      await Promise.allSettled(busy);
      await Promise.all(
        slots.map(async (slot, index) => {
          slots[index] = undefined;
          if (slot !== undefined) await close(slot, index);
        }),
      );
    },
  };
}
