/** Which calls a vCPU made by vmcall, as far as we hear of them. */

export interface CallCount {
  /** What the guest had in RAX. */
  readonly nr: bigint;
  readonly name: string | undefined;
  readonly count: number;
  /** What the last one of them answered. */
  readonly result: bigint;
}

/** One call. */
export interface TracedCall {
  readonly nr: bigint;
  readonly name: string | undefined;
  /** RBX, RCX, RDX, RSI. */
  readonly words: readonly bigint[];
  readonly result: bigint;
  /** So many exits the vCPU had had by then: where the call belongs in their trace. */
  readonly afterExit: number;
}

export interface VmcallReport {
  /** Answered by a model in this monitor, in place of the kernel. */
  readonly simulated: boolean;
  readonly total: number;
  /** Exits to the monitor: of calls that the kernel does not answer itself. */
  readonly exits: number;
  readonly calls: readonly CallCount[];
  /** The last ones, oldest first. */
  readonly last: readonly TracedCall[];
}

/** Different numbers that are told apart; a guest has 2^64 of them. */
const mostNumbers = 64;
/** Calls that are kept one by one. */
const mostKept = 1000;

export class VmcallLog {
  readonly #simulated: boolean;
  readonly #last: TracedCall[] = [];
  readonly #calls = new Map<bigint, { name: string | undefined; count: number; result: bigint }>();
  #total = 0;
  #exits = 0;

  constructor(simulated: boolean) {
    this.#simulated = simulated;
  }

  /** `leaves`: it was an exit. */
  record(call: TracedCall, leaves: boolean): void {
    const { nr, name, result } = call;
    // a ring: the oldest makes room
    this.#last[this.#total % mostKept] = call;
    this.#total += 1;
    if (leaves) this.#exits += 1;
    const before = this.#calls.get(nr);
    if (before) {
      before.count += 1;
      before.result = result;
    } else if (this.#calls.size < mostNumbers) this.#calls.set(nr, { name, count: 1, result });
  }

  /** Undefined if there was none. */
  report(): VmcallReport | undefined {
    if (this.#total === 0) return undefined;
    const calls = [...this.#calls].map(([nr, { name, count, result }]) => ({ nr, name, count, result }));
    const oldest = this.#total > mostKept ? this.#total % mostKept : 0;
    const last = [...this.#last.slice(oldest), ...this.#last.slice(0, oldest)];
    return { simulated: this.#simulated, total: this.#total, exits: this.#exits, calls, last };
  }
}
