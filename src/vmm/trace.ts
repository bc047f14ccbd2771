/**
 * The last exits one by one, with time, port or address, and data. A ring of numbers of fixed size, so that watching
 * costs little and a guest that leaves often cannot fill our memory.
 */
import { exitReason, exitReasons } from '#kvm/abi/exits.ts';
import type { RunPage } from '#kvm/runpage.ts';

export interface TracedExit {
  /** 1 is the first exit of the vCPU. */
  readonly number: number;
  /** Nanoseconds since the vCPU began. */
  readonly ns: number;
  readonly reason: string;
  /** Of a port instruction. */
  readonly port?: number;
  /** Guest-physical, of an access that no memory backs. */
  readonly address?: number;
  /** `in` also of a read, `out` also of a write. */
  readonly direction?: 'in' | 'out';
  /** Bytes of one transfer. */
  readonly size?: number;
  /** What the guest sent; for `in`, what it was given. Of several transfers the first. A bigint above 32 bits. */
  readonly value?: number | bigint;
  /** Transfers, if not one: `rep outsb` sends many in one exit. */
  readonly count?: number;
}

/** A stretch of the trace. */
export interface TracedExits {
  /** So many exits before the first one here are no longer known. */
  readonly dropped: number;
  /** Oldest first. */
  readonly exits: readonly TracedExit[];
}

/** Exits that are kept unless told otherwise: 1 MiB. */
export const usualTrace = 16_384;

const fields = 8; // time, reason, port or address, out, size, count, data (low and high 32 bits)

export class ExitTrace {
  readonly #ring: Float64Array;
  readonly #capacity: number;
  #began = performance.now();
  #count = 0;

  constructor(capacity = usualTrace) {
    this.#capacity = capacity;
    this.#ring = new Float64Array(capacity * fields);
  }

  /** The first instruction comes now. */
  begin(): void {
    if (this.#count === 0) this.#began = performance.now();
  }

  /** After the exit was served, when the answer to an `in` is known. The time, in milliseconds. */
  record(page: RunPage): number {
    const at = (this.#count % this.#capacity) * fields;
    const ring = this.#ring;
    const now = performance.now();
    this.#count += 1;
    ring[at] = now - this.#began;
    ring[at + 1] = page.exitReason;
    if (page.exitReason === exitReasons.IO.number) {
      ring[at + 2] = page.port;
      ring[at + 3] = Number(page.isOut);
      ring[at + 4] = page.ioSize;
      ring[at + 5] = page.ioCount;
      ring[at + 6] = page.ioValue(0);
      ring[at + 7] = 0;
    } else if (page.exitReason === exitReasons.MMIO.number) {
      const { address, length, isWrite } = page.mmio;
      const data = page.mmioData;
      ring[at + 2] = Number(address); // at most 52 bits wide
      ring[at + 3] = Number(isWrite);
      ring[at + 4] = length;
      ring[at + 5] = 1;
      ring[at + 6] = Number(data & 0xffff_ffffn);
      ring[at + 7] = Number(data >> 32n);
    }
    return now;
  }

  get count(): number {
    return this.#count;
  }

  /** The exits behind number `after`, of these the last `most`. */
  entries({ after = 0, most = this.#capacity } = {}): TracedExits {
    const first = Math.max(after, this.#count - Math.min(most, this.#capacity));
    const exits: TracedExit[] = [];
    for (let index = first; index < this.#count; index += 1) exits.push(this.#entry(index));
    return { dropped: first - after, exits };
  }

  #entry(index: number): TracedExit {
    const from = (index % this.#capacity) * fields;
    const [ms = 0, reason = 0, where = 0, out = 0, size = 0, count = 0, low = 0, high = 0] =
      this.#ring.subarray(from, from + fields);
    const head = { number: index + 1, ns: Math.round(ms * 1e6), reason: exitReason(reason).name };
    const isPort = reason === exitReasons.IO.number;
    if (!isPort && reason !== exitReasons.MMIO.number) return head;
    // of the 8 bytes of a memory access only as many are the guest's
    const value =
      size > 4 ? (BigInt(high) << 32n) | BigInt(low) : Number(BigInt.asUintN(size * 8, BigInt(low)));
    return {
      ...head,
      ...(isPort ? { port: where } : { address: where }),
      direction: out === 1 ? 'out' : 'in',
      size,
      value,
      ...(count !== 1 && { count }),
    };
  }
}
