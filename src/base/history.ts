/**
 * The memory of a stream: its first and its last bytes, by absolute offset since the beginning.
 *
 *     0          head                      end - tail        end
 *     |----------|  ......... expired .........  |------------|
 *       kept: how it began                         kept: what it said last
 *
 * Readers name the offset they want to go on from, so a connection can be lost without losing a byte; what is
 * no longer there is named exactly, never skipped in silence.
 */

/** How much is kept, in bytes. */
export interface HistoryLimits {
  readonly head: number;
  readonly tail: number;
}

/** What there is at an offset. `to` is exclusive, and the offset to go on from. */
export type HistoryPiece =
  | {
      readonly kind: 'bytes';
      readonly from: number;
      readonly to: number;
      readonly bytes: Uint8Array<ArrayBuffer>;
    }
  | { readonly kind: 'expired'; readonly from: number; readonly to: number };

export interface History {
  /** Bytes ever appended: the offset of the next one. */
  readonly end: number;
  append(bytes: Uint8Array): void;
  /**
   * The longest piece of one kind that begins at `from`, at most `limit` bytes; empty bytes at the end. An offset
   * past the end is an error of the caller: RangeError.
   */
  read(from: number, limit?: number): HistoryPiece;
}

const mebibyte = 2 ** 20;

/**
 * @example
 * const history = createHistory();
 * history.append(chunk);
 * for (let at = 0; at < history.end; ) { const piece = history.read(at); at = piece.to; }
 */
export function createHistory({ head = mebibyte, tail = mebibyte }: Partial<HistoryLimits> = {}): History {
  // Both grow as they fill: most streams are short.
  let first = new Uint8Array(0);
  let ring = new Uint8Array(0);
  let end = 0;

  const appendRing = (bytes: Uint8Array, offset: number): void => {
    const skipped = Math.max(0, bytes.length - tail);
    const kept = bytes.subarray(skipped);
    const position = (offset + skipped - head) % tail;
    if (ring.length < tail) ring = grown(ring, position + kept.length, tail);
    const straight = Math.min(kept.length, tail - position);
    ring.set(kept.subarray(0, straight), position);
    ring.set(kept.subarray(straight), 0);
  };

  return {
    get end() {
      return end;
    },
    append(bytes) {
      const space = Math.max(0, head - end);
      if (space > 0) {
        first = grown(first, end + Math.min(space, bytes.length), head);
        first.set(bytes.subarray(0, space), end);
      }
      const rest = bytes.subarray(space);
      if (rest.length > 0 && tail > 0) appendRing(rest, Math.max(end, head));
      end += bytes.length;
    },
    read(from, limit = Number.MAX_SAFE_INTEGER) {
      const place = locate(from, end, { head, tail });
      if (place.kind === 'expired') return place;
      const length = Math.min(place.to - from, limit);
      const source = place.part === 'head' ? first : ring;
      const bytes = source.slice(place.position, place.position + length);
      return { kind: 'bytes', from, to: from + length, bytes };
    },
  };
}

/** Room for `needed` bytes, at most `limit`, with the old content. */
function grown(old: Uint8Array<ArrayBuffer>, needed: number, limit: number): Uint8Array<ArrayBuffer> {
  if (needed <= old.length) return old;
  const bytes = new Uint8Array(Math.min(limit, Math.max(needed, old.length * 2, 4096)));
  bytes.set(old);
  return bytes;
}

/** Where the bytes from an offset on lie: in the head, or in the ring (`position` within it). */
export type HistoryPlace =
  | {
      readonly kind: 'bytes';
      readonly from: number;
      readonly to: number;
      readonly part: 'head' | 'ring';
      readonly position: number;
    }
  | { readonly kind: 'expired'; readonly from: number; readonly to: number };

/**
 * Finds an offset in a history of `end` bytes; the arithmetic alone, also for one kept in a file. The ring's byte for
 * an offset is at `(offset - head) % tail`; a piece ends where the head, the ring or the history does.
 */
export function locate(from: number, end: number, { head, tail }: HistoryLimits): HistoryPlace {
  if (!Number.isSafeInteger(from) || from < 0 || from > end)
    throw new RangeError(`offset ${from} is not in a stream of ${end} bytes`);
  if (from < head) return { kind: 'bytes', from, to: Math.min(head, end), part: 'head', position: from };
  const oldest = Math.max(head, end - tail);
  if (from < oldest) return { kind: 'expired', from, to: oldest };
  const position = tail === 0 ? 0 : (from - head) % tail;
  return { kind: 'bytes', from, to: Math.min(end, from + tail - position), part: 'ring', position };
}
