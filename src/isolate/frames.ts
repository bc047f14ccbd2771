/**
 * Frames: one byte kind, four bytes length (little endian), payload. Both directions of a session speak them.
 *
 * From the server: `J` a JSON line, `1` `2` `3` output, `F` a piece of a collected file.
 * To the server: `P` a plan, `i` input, `e` end of input, `r` "ROWS COLUMNS", `s` a signal number,
 * `k` kill the run, `g` go on after a sync.
 */
import { CarrelError } from '#base/errors.ts';

export const frameHeaderBytes = 5;
/** Longer frames mean a broken or foreign peer. The server sends at most 64 KiB and a header. */
export const maxFrameBytes = 1 << 20;

export interface Frame {
  readonly kind: string;
  readonly payload: Buffer;
}

export function encodeFrame(kind: string, payload: Uint8Array | string = ''): Buffer {
  const bytes = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const frame = Buffer.allocUnsafe(frameHeaderBytes + bytes.length);
  frame.write(kind, 0, 1, 'latin1');
  frame.writeUInt32LE(bytes.length, 1);
  frame.set(bytes, frameHeaderBytes);
  return frame;
}

/** Input in frames the server accepts (256 KiB each), and its end if wanted. */
export function encodeInput(bytes: Uint8Array, { end = false }: { end?: boolean } = {}): Buffer {
  const piece = 128 << 10;
  const frames: Buffer[] = [];
  for (let at = 0; at < bytes.length; at += piece)
    frames.push(encodeFrame('i', bytes.subarray(at, at + piece)));
  if (end) frames.push(encodeFrame('e'));
  return Buffer.concat(frames);
}

/** Cuts a byte stream into frames; feed it pieces of any size. Throws on a frame that is too long. */
export function createFrameDecoder({ maxBytes = maxFrameBytes }: { maxBytes?: number } = {}): (
  chunk: Buffer,
) => Frame[] {
  let held: Buffer[] = [];
  let size = 0;
  let needed = frameHeaderBytes;
  return (chunk) => {
    held.push(chunk);
    size += chunk.length;
    if (size < needed) return [];
    const bytes = held.length === 1 ? chunk : Buffer.concat(held);
    const frames: Frame[] = [];
    let at = 0;
    needed = frameHeaderBytes;
    while (bytes.length - at >= frameHeaderBytes) {
      const length = bytes.readUInt32LE(at + 1);
      if (length > maxBytes)
        throw new CarrelError(
          'helper_failed',
          `The isolation server sent a frame of ${length} bytes; at most ${maxBytes} are expected`,
        );
      if (bytes.length - at - frameHeaderBytes < length) {
        needed = frameHeaderBytes + length;
        break;
      }
      const start = at + frameHeaderBytes;
      frames.push({
        kind: bytes.toString('latin1', at, at + 1),
        payload: bytes.subarray(start, start + length),
      });
      at = start + length;
    }
    held = at < bytes.length ? [bytes.subarray(at)] : [];
    size = bytes.length - at;
    return frames;
  };
}
