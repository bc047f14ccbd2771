/**
 * Frames between the host and the agent in a guest (src/native/agent/agent.h is the other side): a head of 16 bytes
 * (magic, length, type and flags, channel; little endian), at most 64 KiB of payload, a mark of 4 bytes.
 *
 * Whatever comes from the guest may be a lie. The decoder holds one frame at most, and refuses what is none.
 */
import { CarrelError } from '#base/errors.ts';

export const protocolVersion = 1;
export const headBytes = 16;
export const markBytes = 4;
export const maxPayloadBytes = 64 << 10;
/** A request in several frames; execve(2) takes less. */
export const maxRequestBytes = 4 << 20;
export const nonceBytes = 16;
/** Input that a channel takes before it has passed any on (WINDOW in agent.h). */
export const inputWindowBytes = 128 << 10;

const magic = 0x0c4a77e1;
const mark = 0x1ee77a4c;
const moreFlag = 1;

/** What the host says. */
export const ask = {
  hello: 1,
  ping: 2,
  run: 3,
  input: 4,
  inputEnd: 5,
  credit: 6,
  kill: 7,
  resize: 8,
  keep: 9,
  attach: 10,
  close: 11,
  drop: 12,
  read: 13,
  write: 14,
  identify: 15,
  grow: 16,
  power: 17,
  sync: 18,
  usage: 19,
} as const;
export type Ask = (typeof ask)[keyof typeof ask];

/** What the agent says. */
export const tell = {
  welcome: 101,
  done: 102,
  failed: 103,
  started: 104,
  stdout: 105,
  stderr: 106,
  taken: 107,
  file: 108,
  attached: 109,
  record: 110,
  ended: 111,
} as const;

export interface Frame {
  readonly type: number;
  readonly channel: number;
  /** A view that is good until the handler returns. */
  readonly payload: Buffer;
}

function encodeOne(type: number, channel: number, payload: Uint8Array, more: boolean): Buffer {
  const frame = Buffer.allocUnsafe(headBytes + payload.length + markBytes);
  frame.writeUInt32LE(magic, 0);
  frame.writeUInt32LE(payload.length, 4);
  frame.writeUInt16LE(type, 8);
  frame.writeUInt16LE(more ? moreFlag : 0, 10);
  frame.writeUInt32LE(channel, 12);
  frame.set(payload, headBytes);
  frame.writeUInt32LE(mark, headBytes + payload.length);
  return frame;
}

const nothing = new Uint8Array(0);

/** One message, in as many frames as it needs. `too_large` beyond `maxRequestBytes`. */
export function encodeFrames(type: number, channel: number, payload: Uint8Array = nothing): Buffer {
  if (payload.length > maxRequestBytes)
    throw new CarrelError('too_large', `a request of ${payload.length} bytes is more than a machine takes`, {
      details: { limit: maxRequestBytes },
    });
  const frames: Buffer[] = [];
  let at = 0;
  do {
    const piece = payload.subarray(at, at + maxPayloadBytes);
    at += piece.length;
    frames.push(encodeOne(type, channel, piece, at < payload.length));
  } while (at < payload.length);
  return frames.length === 1 && frames[0] ? frames[0] : Buffer.concat(frames);
}

/** As long as the longest frame: what the agent may still be waiting for since an earlier connection was cut. */
export const padding: Buffer = Buffer.alloc(headBytes + maxPayloadBytes + markBytes);

/** Bytes of an earlier connection that may come before the welcome. */
const maxForeignBytes = 4 << 20;

function broken(what: string): CarrelError {
  return new CarrelError('machine_lost', `the machine's agent ${what}`, {
    hint: 'the connection is opened anew with the next request',
  });
}

export interface FrameDecoder {
  /** Calls back for every whole frame. Throws `machine_lost` for what no agent of ours says. */
  push(chunk: Buffer, onFrame: (frame: Frame) => void): void;
  /** Has the welcome been found? */
  readonly greeted: boolean;
}

/**
 * Cuts the stream from the agent into frames. What comes before the welcome with this nonce belongs to somebody
 * else's connection, and is thrown away.
 */
export function createFrameDecoder(nonce: Uint8Array): FrameDecoder {
  /** Has room for `need` bytes, of which `filled` are there. */
  let held: Buffer = Buffer.alloc(0);
  let filled = 0;
  let need = 0;
  let greeted = false;
  let foreign = 0;

  /** The frame at `at`: its length, 0 when it is not whole yet, undefined when there is none. */
  const lengthAt = (bytes: Buffer, at: number): number | undefined => {
    if (bytes.length - at < headBytes) return 0;
    const length = bytes.readUInt32LE(at + 4);
    if (bytes.readUInt32LE(at) !== magic || length > maxPayloadBytes) return undefined;
    if (!greeted && (bytes.readUInt32LE(at + 8) !== tell.welcome || length > 4 + nonceBytes + 64))
      return undefined;
    const whole = headBytes + length + markBytes;
    if (bytes.length - at < whole) return 0;
    return bytes.readUInt32LE(at + headBytes + length) === mark ? whole : undefined;
  };
  const isOurs = (bytes: Buffer, at: number): boolean =>
    bytes.subarray(at + headBytes + 4, at + headBytes + 4 + nonceBytes).equals(nonce);

  return {
    push(chunk, onFrame) {
      // a frame may come in single bytes: it is put together once
      if (filled > 0 && filled + chunk.length < need) {
        filled += chunk.copy(held, filled);
        return;
      }
      const bytes = filled === 0 ? chunk : Buffer.concat([held.subarray(0, filled), chunk]);
      let at = 0;
      while (at < bytes.length) {
        const whole = lengthAt(bytes, at);
        if (whole === 0) break;
        if (whole === undefined || (!greeted && !isOurs(bytes, at))) {
          if (greeted) throw broken('does not speak its protocol');
          const next = bytes.indexOf(magic & 0xff, at + 1);
          const skipped = (next < 0 ? bytes.length : next) - at;
          foreign += skipped;
          if (foreign > maxForeignBytes) throw broken('says anything but its welcome');
          at += skipped;
          continue;
        }
        greeted = true;
        onFrame({
          type: bytes.readUInt16LE(at + 8),
          channel: bytes.readUInt32LE(at + 12),
          payload: bytes.subarray(at + headBytes, at + whole - markBytes),
        });
        at += whole;
      }
      const left = bytes.length - at;
      need = left < headBytes ? headBytes : headBytes + bytes.readUInt32LE(at + 4) + markBytes;
      // a copy: a few bytes must not keep a large chunk alive
      held = left > 0 ? Buffer.allocUnsafe(need) : Buffer.alloc(0);
      filled = left > 0 ? bytes.copy(held, 0, at) : 0;
    },
    get greeted() {
      return greeted;
    },
  };
}
