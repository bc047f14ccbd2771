/** Waiting for a machine's row to change: told by those who change it in this process, made sure by looking. */

export interface Waiting {
  readonly changed: (id: string) => void;
  /** Looks at once, after every change and every now and then, until `enough` or `ms` have passed. */
  until<T>(id: string, ms: number, look: () => Promise<T>, enough: (value: T) => boolean): Promise<T>;
}

const lookEveryMs = 500;

export function createWaiting(): Waiting {
  const waiters = new Map<string, Set<() => void>>();
  return {
    changed(id) {
      for (const wake of waiters.get(id) ?? []) wake();
    },
    async until(id, ms, look, enough) {
      const end = performance.now() + ms;
      const wakers = waiters.get(id) ?? new Set();
      waiters.set(id, wakers);
      for (;;) {
        const { promise, resolve } = Promise.withResolvers<void>();
        wakers.add(resolve); // before looking: no change is lost
        try {
          const value = await look();
          const left = end - performance.now();
          if (enough(value) || left <= 0) return value;
          const timer = setTimeout(resolve, Math.min(left, lookEveryMs));
          await promise;
          clearTimeout(timer);
        } finally {
          wakers.delete(resolve);
          if (wakers.size === 0 && waiters.get(id) === wakers) waiters.delete(id);
        }
      }
    },
  };
}
