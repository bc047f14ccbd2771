/** The other end of a vCPU's thread: gives it its order, limits it, and knows why it ended. */
import type { Worker } from 'node:worker_threads';
import { CarrelError } from '#base/errors.ts';
import { Kick } from '#kvm/kick.ts';
import type { RunPage } from '#kvm/runpage.ts';
import type { Goal } from './debug/choose.ts';
import type { End } from './end.ts';
import { returnThread, takeThread } from './threads.ts';
import type { TracedExits } from './trace.ts';
import type { VcpuOrder, VcpuReport } from './vcpu-run.ts';
import type { FromVcpu, ToVcpu } from './vcpu-thread.ts';

/** A thread that has not begun by then never will. */
const startMs = 30_000;
/** A kicked vCPU leaves KVM_RUN in microseconds, or its kernel is stuck. */
const kickedMs = 5000;

/**
 * vCPUs that run now. A process cannot exit while one of its threads is inside KVM_RUN, so whoever calls
 * process.exit, for whatever reason, kicks them all.
 */
const running = new Set<() => void>();
process.on('exit', () => {
  for (const kick of running) kick();
});

export interface Ended extends Omit<VcpuReport, 'end'> {
  readonly end: End;
}

export interface ThreadOptions {
  readonly order: VcpuOrder;
  readonly page: RunPage;
  readonly onLine: (line: string) => void;
  readonly onExits?: (batch: TracedExits) => void;
  readonly onClose?: () => void;
}

/** One stretch of a run. */
export interface Stretch {
  readonly goal?: Goal;
  /** From its first instruction on. */
  readonly limitMs: number;
  /** Stops it. */
  readonly signal: AbortSignal;
}

const late = (): CarrelError =>
  new CarrelError('internal', `the thread of a vCPU did not begin in ${startMs} ms`);
const stuck = (): CarrelError =>
  new CarrelError('internal', `a vCPU does not stop: KVM did not leave the guest in ${kickedMs} ms`, {
    hint: 'end this process with SIGKILL; the kernel frees the rest',
  });

/** A vCPU with a thread of its own, which keeps what belongs to it (counters, open files) from stretch to stretch. */
export class VcpuThread {
  readonly #options: ThreadOptions;
  readonly #thread: Worker;
  #broken = false;

  constructor(options: ThreadOptions) {
    this.#options = options;
    this.#thread = takeThread();
    this.#send({ kind: 'open', order: options.order });
  }

  #send(message: ToVcpu): void {
    this.#thread.postMessage(message);
  }

  /** Runs it until the goal is met or it ends. One at a time. */
  async go({ goal = {}, limitMs, signal }: Stretch): Promise<Ended> {
    const { page, onLine, onExits } = this.#options;
    const kick = new Kick();
    const { promise, resolve, reject } = Promise.withResolvers<VcpuReport>();
    const timers = [setTimeout(() => reject(late()), startMs)];
    let why: End = { kind: 'stopped' };
    const stop = (end: End): void => {
      why = end;
      kick.stop(page);
      timers.push(setTimeout(() => reject(stuck()), kickedMs));
    };
    const onAbort = (): void => stop({ kind: 'stopped' });
    const onExit = (): void => kick.stop(page);
    const onMessage = (message: FromVcpu): void => {
      if (message.kind === 'line') onLine(message.text);
      else if (message.kind === 'exits') onExits?.(message.batch);
      else if (message.kind === 'ended') resolve(message.report);
      else {
        clearTimeout(timers[0]);
        timers.push(setTimeout(() => stop({ kind: 'time limit', ms: limitMs }), limitMs));
      }
    };
    running.add(onExit);
    this.#thread.on('message', onMessage).on('error', reject);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (signal.aborted) onAbort();
      this.#send({ kind: 'go', goal, kick: kick.buffer });
      const { end, ...rest } = await promise;
      return { ...rest, end: end === 'kicked' ? why : end };
    } catch (error) {
      this.#broken = true;
      throw error;
    } finally {
      this.#thread.off('message', onMessage).off('error', reject);
      running.delete(onExit);
      signal.removeEventListener('abort', onAbort);
      for (const timer of timers) clearTimeout(timer);
    }
  }

  /** Not while it runs. */
  async close(): Promise<void> {
    this.#options.onClose?.();
    if (this.#broken) {
      void this.#thread.terminate(); // ends as soon as it can: never, if its kernel is stuck
      return;
    }
    this.#send({ kind: 'close' });
    await returnThread(this.#thread);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
