/** What a guest prints: whole lines, so that those of several vCPUs do not mix, and not more than is allowed. */

export class GuestOutput {
  readonly #limit: number;
  readonly #onLine: (line: string) => void;
  /** The line so far; twice as large whenever it is full. */
  #line = new Uint8Array(256);
  #length = 0;
  #bytes = 0;

  /** `onLine` gets each line with its newline; the last one may have none. */
  constructor({ limit, onLine }: { limit: number; onLine: (line: string) => void }) {
    this.#limit = limit;
    this.#onLine = onLine;
  }

  /** False when the limit is reached: this byte is lost, and the guest has to end. */
  byte(value: number): boolean {
    if (this.#bytes >= this.#limit) return false;
    this.#bytes += 1;
    if (this.#length === this.#line.length) {
      const larger = new Uint8Array(this.#length * 2);
      larger.set(this.#line);
      this.#line = larger;
    }
    this.#line[this.#length] = value;
    this.#length += 1;
    if (value === 0x0a) this.flush();
    return true;
  }

  write(bytes: Uint8Array): boolean {
    for (const byte of bytes) if (!this.byte(byte)) return false;
    return true;
  }

  /** Gives away what is there of a line: at the end of the guest. */
  flush(): void {
    if (this.#length === 0) return;
    this.#onLine(Buffer.from(this.#line.buffer, 0, this.#length).toString('utf8'));
    this.#length = 0;
  }
}
