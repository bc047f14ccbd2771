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

/** Places of an array that are not 0, with their counts. */
function happened(counts: Uint32Array): [place: number, count: number][] {
  const found: [number, number][] = [];
  for (const [place, count] of counts.entries()) if (count > 0) found.push([place, count]);
  return found;
}

/** One more than any reason there is; those beyond would share the last place. */
const mostReasons = 64;

/** Arrays, not maps: this runs at every exit. */
export class ExitCounters {
  #total = 0;
  #ins = 0;
  #outs = 0;
  readonly #reasons = new Uint32Array(mostReasons);
  /** By port * 2 + (1 for out): 65,536 ports, two ways. */
  readonly #ports = new Uint32Array(2 * 65_536);

  count(page: RunPage): void {
    this.#total += 1;
    const reason = Math.min(page.exitReason, mostReasons - 1);
    this.#reasons[reason] = (this.#reasons[reason] ?? 0) + 1;
    if (reason !== exitReasons.IO.number) return;
    const { isOut } = page;
    if (isOut) this.#outs += 1;
    else this.#ins += 1;
    const key = page.port * 2 + Number(isOut);
    this.#ports[key] = (this.#ports[key] ?? 0) + 1;
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
        happened(this.#reasons).map(([reason, count]) => [exitReason(reason).name, count]),
      ),
      ports: happened(this.#ports).map(([key, count]) => ({
        port: key >> 1,
        direction: key & 1 ? 'out' : 'in',
        count,
      })),
    };
  }
}
