/** How often a guest left for the host, and why. Counted before the exit is served: a guest that asks sees its own question. */
import { exitReason, exitReasons } from '#kvm/abi/exits.ts';
import type { RunPage } from '#kvm/runpage.ts';

export interface PortCount {
  readonly port: number;
  readonly direction: 'in' | 'out';
  readonly count: number;
}

export interface ExitCounts {
  readonly total: number;
  /** Name of the reason -> how often; only those that happened. */
  readonly byReason: Readonly<Record<string, number>>;
  readonly ports: readonly PortCount[];
}

/** One more than any reason there is; those beyond would share the last place. */
const mostReasons = 64;

/** Runs at every exit: one look-up, and nothing allocated after the first exit of a kind. */
export class ExitCounters {
  #total = 0;
  #ins = 0;
  #outs = 0;
  readonly #reasons = new Uint32Array(mostReasons);
  /** By port * 2 + (1 for out). */
  readonly #ports = new Map<number, { count: number }>();

  count(page: RunPage): void {
    this.#total += 1;
    const reason = Math.min(page.exitReason, mostReasons - 1);
    this.#reasons[reason] = (this.#reasons[reason] ?? 0) + 1;
    if (reason !== exitReasons.IO.number) return;
    const { isOut } = page;
    if (isOut) this.#outs += 1;
    else this.#ins += 1;
    const key = page.port * 2 + Number(isOut);
    const before = this.#ports.get(key);
    if (before) before.count += 1;
    else this.#ports.set(key, { count: 1 });
  }

  get total(): number {
    return this.#total;
  }

  get ins(): number {
    return this.#ins;
  }

  get outs(): number {
    return this.#outs;
  }

  snapshot(): ExitCounts {
    const byReason: Record<string, number> = {};
    for (const [reason, count] of this.#reasons.entries())
      if (count > 0) byReason[exitReason(reason).name] = count;
    return {
      total: this.#total,
      byReason,
      ports: [...this.#ports]
        .toSorted(([a], [b]) => a - b)
        .map(([key, { count }]) => ({ port: key >> 1, direction: key & 1 ? 'out' : 'in', count })),
    };
  }
}
