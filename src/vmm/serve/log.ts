/**
 * Events in order, each with a number, the last ones kept: whoever comes, or comes back, begins where it wants as
 * long as that is still there. Kept as text, so that what is kept is what was counted.
 */

export interface Entry {
  readonly seq: number;
  readonly text: string;
}

export class EventLog {
  readonly #limits: { readonly events: number; readonly bytes: number };
  #entries: Entry[] = [];
  /** Entries before this index are gone; the array is cut now and then, not each time. */
  #start = 0;
  #bytes = 0;
  #next = 1;

  constructor(limits: { readonly events: number; readonly bytes: number }) {
    this.#limits = limits;
  }

  /** The number of the next event; the first is 1. */
  get next(): number {
    return this.#next;
  }

  /** The number of the oldest one that is kept. */
  get first(): number {
    return this.#entries[this.#start]?.seq ?? this.#next;
  }

  /** Keeps the text that `make` makes of the event's number. */
  add(make: (seq: number) => string): void {
    const text = make(this.#next);
    this.#entries.push({ seq: this.#next, text });
    this.#next += 1;
    this.#bytes += text.length;
    const { events, bytes } = this.#limits;
    while (
      this.#entries.length - this.#start > events ||
      (this.#bytes > bytes && this.first < this.#next - 1)
    ) {
      this.#bytes -= this.#entries[this.#start]?.text.length ?? 0;
      this.#start += 1;
    }
    if (this.#start < 1024 && this.#start * 2 < this.#entries.length) return;
    this.#entries = this.#entries.slice(this.#start);
    this.#start = 0;
  }

  /** The event with this number, if it is kept. */
  at(seq: number): Entry | undefined {
    return seq < this.first ? undefined : this.#entries[this.#start + seq - this.first];
  }
}
