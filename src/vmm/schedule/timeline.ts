/** Who ran when: slices one after another, as numbers in a table of fixed size, and sums that are always right. */
import type { SwitchCause } from './policy.ts';

export interface Slice {
  /** Which machine. */
  readonly machine: number;
  /** Milliseconds since the schedule began. */
  readonly fromMs: number;
  readonly toMs: number;
  /** CPU time of the thread in it, in milliseconds: less than it lasted where others had the core. */
  readonly cpuMs: number;
  /** Exits to the host. */
  readonly exits: number;
  /** 'stop': from outside. */
  readonly cause: SwitchCause | 'stop';
}

export interface Timeline {
  /** The first ones. */
  readonly slices: readonly Slice[];
  /** So many more came after those. */
  readonly dropped: number;
}

/** As many as are kept: a machine that leaves a hundred thousand times in a second must not fill our memory. */
export const mostSlices = 20_000;

const causes = ['io', 'tick', 'end', 'stop'] as const;
const fields = 6;

export class TimelineLog {
  readonly #table = new Float64Array(mostSlices * fields);
  #count = 0;

  /** Runs at every switch: nothing is allocated. */
  add(
    machine: number,
    fromMs: number,
    toMs: number,
    cpuMs: number,
    exits: number,
    cause: Slice['cause'],
  ): void {
    if (this.#count < mostSlices)
      this.#table.set([machine, fromMs, toMs, cpuMs, exits, causes.indexOf(cause)], this.#count * fields);
    this.#count += 1;
  }

  /** Switches so far. */
  get count(): number {
    return this.#count;
  }

  timeline(): Timeline {
    const slices: Slice[] = [];
    for (let index = 0; index < Math.min(this.#count, mostSlices); index += 1) {
      const from = index * fields;
      const [machine = 0, fromMs = 0, toMs = 0, cpuMs = 0, exits = 0, cause = 0] = this.#table.subarray(
        from,
        from + fields,
      );
      slices.push({ machine, fromMs, toMs, cpuMs, exits, cause: causes[cause] ?? 'stop' });
    }
    return { slices, dropped: this.#count - slices.length };
  }
}
