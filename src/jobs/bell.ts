/** Something to wait for that may have happened already: rings are not counted, and none is lost. */
export interface Bell {
  readonly ring: () => void;
  readonly ringAfter: (ms: number) => void;
  /** Resolves at the next ring, at once if it has rung since the last wait, or after `ms`. One waiter at a time. */
  readonly wait: (ms: number) => Promise<void>;
}

export function createBell(): Bell {
  let rung = false;
  let wake: (() => void) | undefined;
  const ring = (): void => {
    rung = true;
    wake?.();
  };
  return {
    ring,
    ringAfter: (ms) => void setTimeout(ring, ms).unref(),
    async wait(ms) {
      if (!rung) {
        const { promise, resolve } = Promise.withResolvers<void>();
        const timer = setTimeout(resolve, ms);
        wake = resolve;
        await promise;
        clearTimeout(timer);
        wake = undefined;
      }
      rung = false;
    },
  };
}
