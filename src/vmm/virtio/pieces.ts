/**
 * Bytes that lie in several pieces. A driver may cut a request wherever it likes (2.7.4.1): no device here takes
 * the edge of a descriptor for the edge of anything.
 */

export type Pieces = readonly Uint8Array[];

export function bytesIn(pieces: Pieces): number {
  let bytes = 0;
  for (const piece of pieces) bytes += piece.length;
  return bytes;
}

/** The bytes from `start` to before `end`: views, not copies. What is beyond the last piece is left out. */
export function cut(pieces: Pieces, start: number, end = Infinity): Uint8Array[] {
  const found: Uint8Array[] = [];
  let at = 0;
  for (const piece of pieces) {
    if (at >= end) break;
    const from = Math.max(0, start - at);
    const to = Math.min(piece.length, end - at);
    if (from < to) found.push(from === 0 && to === piece.length ? piece : piece.subarray(from, to));
    at += piece.length;
  }
  return found;
}

/** A copy of at most `most` bytes: what the guest changes from now on is not in it. */
export function copyOut(pieces: Pieces, most: number): Uint8Array {
  const copy = new Uint8Array(Math.min(most, bytesIn(pieces)));
  let at = 0;
  for (const piece of cut(pieces, 0, copy.length)) {
    copy.set(piece, at);
    at += piece.length;
  }
  return copy;
}

/** Writes as much of `data` as there is room for; how many bytes. */
export function copyIn(pieces: Pieces, data: Uint8Array): number {
  let at = 0;
  for (const piece of pieces) {
    if (at >= data.length) break;
    const part = data.subarray(at, at + piece.length);
    piece.set(part);
    at += part.length;
  }
  return at;
}
