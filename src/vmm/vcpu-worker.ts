/** The other end of a vCPU's thread: gives it its order, limits it, and knows why it ended. */
import type { Worker } from 'node:worker_threads';
import { Kick } from '#kvm/kick.ts';
import type { RunPage } from '#kvm/runpage.ts';
import type { Goal } from './debug/choose.ts';
import type { End } from './end.ts';
import { supervise } from './supervise.ts';
import { returnThread, takeThread } from './threads.ts';
import type { TracedExits } from './trace.ts';
import type { VcpuOrder, VcpuReport } from './vcpu-run.ts';
import type { FromVcpu, ToVcpu } from './vcpu-thread.ts';

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
    try {
      const { report, why } = await supervise(this.#thread, {
        begin: () => this.#send({ kind: 'go', goal, kick: kick.buffer }),
        kick: () => kick.stop(page),
        limitMs,
        signal,
        hear(message: FromVcpu) {
          if (message.kind === 'line') onLine(message.text);
          else if (message.kind === 'exits') onExits?.(message.batch);
          else return message;
          return undefined;
        },
      });
      return { ...report, end: report.end === 'kicked' ? why : report.end };
    } catch (error) {
      this.#broken = true;
      throw error;
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
