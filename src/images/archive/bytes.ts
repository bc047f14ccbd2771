/** Reads a stream of chunks by number of bytes: exactly, in passing, or to be thrown away. */
import { CarrelError } from '#base/errors.ts';

export type Chunks = AsyncIterable<Uint8Array>;

export class ByteReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #chunk: Uint8Array = new Uint8Array(0);
  #ended = false;
  /** Bytes given out so far. */
  position = 0;

  constructor(source: Chunks) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** At least one byte in the chunk, or false at the end. */
  async #fill(): Promise<boolean> {
    while (this.#chunk.length === 0) {
      if (this.#ended) return false;
      const next = await this.#source.next();
      if (next.done === true) {
        this.#ended = true;
        return false;
      }
      this.#chunk = next.value;
    }
    return true;
  }

  /** Up to `limit` bytes without copying; undefined at the end. */
  async some(limit: number): Promise<Uint8Array | undefined> {
    if (!(await this.#fill())) return undefined;
    const piece = this.#chunk.subarray(0, limit);
    this.#chunk = this.#chunk.subarray(piece.length);
    this.position += piece.length;
    return piece;
  }

  /** Exactly `length` bytes (small: they are gathered in memory), or undefined at the end if none came. */
  async exactly(length: number, what: string): Promise<Uint8Array | undefined> {
    let whole: Uint8Array | undefined;
    let at = 0;
    while (at < length) {
      const piece = await this.some(length - at);
      if (!piece) {
        if (at === 0) return undefined;
        throw truncated(what);
      }
      if (at === 0 && piece.length === length) return piece;
      whole ??= new Uint8Array(length);
      whole.set(piece, at);
      at += piece.length;
    }
    return whole ?? new Uint8Array(0);
  }

  /** Throws `length` bytes away. */
  async skip(length: number, what: string): Promise<void> {
    for (let left = length; left > 0;) {
      const piece = await this.some(left);
      if (!piece) throw truncated(what);
      left -= piece.length;
    }
  }

  /** No more is wanted: lets the source close what it holds. */
  async close(): Promise<void> {
    this.#ended = true;
    this.#chunk = new Uint8Array(0);
    await this.#source.return?.();
  }
}

export function truncated(what: string): CarrelError {
  return new CarrelError('invalid_archive', `The archive ends in the middle of ${what}`);
}
