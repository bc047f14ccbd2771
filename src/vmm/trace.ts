/** The last exits one by one, with time, port and data: a ring of numbers, so that watching costs little. */
import { exitReason, exitReasons } from '#kvm/abi/exits.ts';
import type { RunPage } from '#kvm/runpage.ts';

export interface TracedExit {
  /** 1 is the first exit of the vCPU. */
  readonly number: number;
  /** Microseconds since the vCPU began. */
  readonly us: number;
  readonly reason: string;
  readonly port?: number;
  readonly direction?: 'in' | 'out';
  readonly size?: number;
  /** What the guest sent; for `in`, what it was given. */
  readonly value?: number;
}

const fields = 5; // time, reason, port * 2 + out, size, value

export class ExitTrace {
  readonly #ring: Float64Array;
  readonly #capacity: number;
  readonly #began = performance.now();
  #count = 0;

  constructor(capacity = 16_384) {
    this.#capacity = capacity;
    this.#ring = new Float64Array(capacity * fields);
  }

  /** After the exit was served, when the answer to an `in` is known. */
  record(page: RunPage): void {
    const at = (this.#count % this.#capacity) * fields;
    const ring = this.#ring;
    this.#count += 1;
    ring[at] = performance.now() - this.#began;
    ring[at + 1] = page.exitReason;
    if (page.exitReason !== exitReasons.IO.number) return;
    ring[at + 2] = page.port * 2 + Number(page.isOut);
    ring[at + 3] = page.ioSize;
    ring[at + 4] = page.ioValue(0);
  }

  /** Oldest first; `dropped` came before them. */
  entries(): { readonly dropped: number; readonly exits: readonly TracedExit[] } {
    const dropped = Math.max(0, this.#count - this.#capacity);
    const exits: TracedExit[] = [];
    for (let index = dropped; index < this.#count; index += 1) exits.push(this.#entry(index));
    return { dropped, exits };
  }

  #entry(index: number): TracedExit {
    const from = (index % this.#capacity) * fields;
    const [ms = 0, reason = 0, port = 0, size = 0, value = 0] = this.#ring.subarray(from, from + fields);
    return {
      number: index + 1,
      us: Math.round(ms * 1000),
      reason: exitReason(reason).name,
      ...(reason === exitReasons.IO.number && {
        port: port >> 1,
        direction: port & 1 ? 'out' : 'in',
        size,
        value,
      }),
    };
  }
}
