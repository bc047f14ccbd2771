/**
 * How a vCPU is stopped from outside, without a race.
 *
 * The thread of the vCPU is inside KVM_RUN, just before it, or just after. The controller
 *   1. writes what it wants into the shared word,
 *   2. sets kvm_run.immediate_exit, which makes the next KVM_RUN return EINTR,
 *   3. sends the thread a signal, which makes a KVM_RUN that has begun return EINTR.
 * The thread, after an EINTR, clears immediate_exit first and reads the word then. So a wish that it does not see
 * has immediate_exit still before it: none is lost, and none needs a second signal.
 * See api.rst on KVM_CAP_IMMEDIATE_EXIT.
 *
 * A tick is the same, but the vCPU goes on after it, as after a timer interrupt: the word then holds a number that
 * grows, and the thread compares it with the one it saw last. A thread that runs several vCPUs in turn gets the flag
 * on each of them; where it meets one that is stale, KVM_RUN returns once for nothing.
 */
import { kickSignal, syscall, trySyscall } from '#host/syscalls.ts';
import type { RunPage } from './runpage.ts';

const word = { thread: 0, wish: 1, ticks: 2 } as const;

export class Kick {
  readonly buffer: SharedArrayBuffer;
  readonly #words: Int32Array;

  constructor(buffer = new SharedArrayBuffer(12)) {
    this.buffer = buffer;
    this.#words = new Int32Array(buffer);
  }

  /** On the vCPU's own thread: signals go here, until `leave`. */
  enter(): void {
    Atomics.store(this.#words, word.thread, syscall('gettid'));
  }

  leave(): void {
    Atomics.store(this.#words, word.thread, 0);
  }

  /** True once a stop was asked for. */
  get wanted(): boolean {
    return Atomics.load(this.#words, word.wish) !== 0;
  }

  /** How many ticks there were. */
  get ticks(): number {
    return Atomics.load(this.#words, word.ticks);
  }

  /** From any thread: makes the vCPU stop, now or before its first instruction. */
  stop(...pages: readonly RunPage[]): void {
    Atomics.store(this.#words, word.wish, 1);
    this.#interrupt(pages);
  }

  /** From any thread: makes whichever of these vCPUs runs leave the guest once. */
  tick(...pages: readonly RunPage[]): void {
    Atomics.add(this.#words, word.ticks, 1);
    this.#interrupt(pages);
  }

  #interrupt(pages: readonly RunPage[]): void {
    for (const page of pages) page.immediateExit = true;
    const thread = Atomics.load(this.#words, word.thread);
    // ESRCH: the thread has just ended
    if (thread !== 0) trySyscall('tgkill', process.pid, thread, kickSignal());
  }
}
