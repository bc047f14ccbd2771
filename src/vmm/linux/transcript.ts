/** What a guest has sent on its serial line: the last of it, with offsets from the first byte on. */
import type { ScreenSource } from '#base/screen.ts';

const keptBytes = 2 ** 20;

export class Transcript implements ScreenSource {
  #chunks: Buffer[] = [];
  #kept = 0;
  total = 0;
  readonly #watchers = new Set<() => void>();
  readonly #type: (bytes: Uint8Array) => void;

  /** `type`: what is written goes there. */
  constructor(type: (bytes: Uint8Array) => void) {
    this.#type = type;
  }

  add(bytes: Buffer): void {
    this.#chunks.push(bytes);
    this.#kept += bytes.length;
    this.total += bytes.length;
    if (this.#kept > 2 * keptBytes) {
      this.#chunks = [Buffer.concat(this.#chunks).subarray(-keptBytes)];
      this.#kept = keptBytes;
    }
    for (const changed of this.#watchers) changed();
  }

  /** All that is kept. */
  get bytes(): Buffer {
    if (this.#chunks.length > 1) this.#chunks = [Buffer.concat(this.#chunks)];
    return this.#chunks[0] ?? Buffer.alloc(0);
  }

  read(from: number, maxBytes = keptBytes): { from: number; bytes: Uint8Array; total: number } {
    const first = this.total - this.#kept;
    const at = Math.max(from, first);
    return { from: at, bytes: this.bytes.subarray(at - first, at - first + maxBytes), total: this.total };
  }

  watch(changed: () => void): () => void {
    this.#watchers.add(changed);
    return () => void this.#watchers.delete(changed);
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#type(bytes);
  }
}
