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

export class ExitCounters {
  #total = 0;
  #ins = 0;
  #outs = 0;
  readonly #reasons = new Map<number, number>();
  /** port * 2 + (1 for out) -> how often. */
  readonly #ports = new Map<number, number>();

  count(page: RunPage): void {
    this.#total += 1;
    const reason = page.exitReason;
    this.#reasons.set(reason, (this.#reasons.get(reason) ?? 0) + 1);
    if (reason !== exitReasons.IO.number) return;
    if (page.isOut) this.#outs += 1;
    else this.#ins += 1;
    const key = page.port * 2 + Number(page.isOut);
    this.#ports.set(key, (this.#ports.get(key) ?? 0) + 1);
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
    return {
      total: this.#total,
      byReason: Object.fromEntries(
        [...this.#reasons].map(([reason, count]) => [exitReason(reason).name, count]),
      ),
      ports: [...this.#ports]
        .sort(([a], [b]) => a - b)
        .map(([key, count]) => ({ port: key >> 1, direction: key & 1 ? 'out' : 'in', count })),
    };
  }
}
