/**
 * A lock between threads, over one word of shared memory: for devices whose registers lie in shared memory, so
 * that each vCPU's thread serves its own accesses. Held for microseconds; a thread that waits sleeps (futex(2),
 * as in Ulrich Drepper's "Futexes Are Tricky", mutex 2).
 */
import { CarrelError } from '#base/errors.ts';

const state = { free: 0, held: 1, waitedFor: 2 } as const;

/** Nobody holds it that long; who waits longer has found a defect. */
const patienceMs = 60_000;

export class SharedLock {
  readonly #words: Int32Array;

  /** `words[0]` is the lock's. */
  constructor(words: Int32Array) {
    this.#words = words;
  }

  /** Runs `work` while no other thread runs anything under the same word. Not to be entered twice by one thread. */
  hold<Result>(work: () => Result): Result {
    this.#take();
    try {
      return work();
    } finally {
      if (Atomics.exchange(this.#words, 0, state.free) === state.waitedFor) Atomics.notify(this.#words, 0, 1);
    }
  }

  #take(): void {
    if (Atomics.compareExchange(this.#words, 0, state.free, state.held) === state.free) return;
    while (Atomics.exchange(this.#words, 0, state.waitedFor) !== state.free)
      if (Atomics.wait(this.#words, 0, state.waitedFor, patienceMs) === 'timed-out')
        throw new CarrelError('internal', `a device stayed locked for ${patienceMs} ms`);
  }
}
