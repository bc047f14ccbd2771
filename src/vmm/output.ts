/** What a guest prints: whole lines, so that those of several vCPUs do not mix, and not more than is allowed. */

export class GuestOutput {
  readonly #limit: number;
  readonly #onLine: (line: string) => void;
  readonly #line: number[] = [];
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
    this.#line.push(value & 0xff);
    if (value === 0x0a) this.flush();
    return true;
  }

  write(bytes: Uint8Array): boolean {
    for (const byte of bytes) if (!this.byte(byte)) return false;
    return true;
  }

  /** Gives away what is there of a line: at the end of the guest. */
  flush(): void {
    if (this.#line.length === 0) return;
    this.#onLine(Buffer.from(this.#line).toString('utf8'));
    this.#line.length = 0;
  }
}
