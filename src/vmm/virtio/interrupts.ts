/** InterruptStatus and the line behind it (4.2.2.1): an event is there from when it happens until it is acknowledged. */
import type { IrqLine } from '../devices/device.ts';

export class Interrupts {
  readonly #line: IrqLine;
  /** One word, perhaps shared: another thread may serve InterruptStatus and InterruptACK (thread/door.ts). */
  readonly #word: Int32Array;

  constructor(line: IrqLine, word: Int32Array = new Int32Array(1)) {
    this.#line = line;
    this.#word = word;
  }

  get status(): number {
    return Atomics.load(this.#word, 0);
  }

  /**
   * The line rises with each kind of event that was not there yet: where it interrupts by an edge, a driver that has
   * read one kind and acknowledges it leaves the other in the word, and would not hear of it by the first edge.
   */
  raise(event: number): void {
    if ((Atomics.or(this.#word, 0, event) & event) !== event) this.#line.set(true);
  }

  /** It falls when all are known. */
  acknowledge(events: number): void {
    const before = Atomics.and(this.#word, 0, ~events);
    if (before !== 0 && (before & ~events) === 0) this.#line.set(false);
  }
}
