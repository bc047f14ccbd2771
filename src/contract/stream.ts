/**
 * What is spoken on the WebSockets of the API (console, exec): binary messages, one channel byte and then bytes.
 * The shape is Kubernetes' v5 remote-command protocol with absolute offsets added.
 *
 * Server to client: `output` bytes; `status` JSON, first `{ from, end? }` (the absolute offset of the next output
 * byte) and last `{ end: {kind, ...} }` when the program has ended; a reader who is too slow is disconnected
 * with close code 1013 and reconnects with `?from=`.
 * Client to server: `input` bytes (refused unless this connection is the writer), `resize` JSON
 * `{ rows, columns }`, `write` JSON `{ take: true }` to become the writer.
 *
 * A client that cannot set headers (a browser) offers two subprotocols: `carrel.v1`, which is chosen, and
 * `carrel.bearer.<token>`. A token is never part of a URL.
 */
import { z } from 'zod';
import { CarrelError } from '#base/errors.ts';
import { programEnd } from './schemas/machines.ts';

/** The WebSocket subprotocol. */
export const streamProtocol = 'carrel.v1';

export const channels = { input: 0, output: 1, status: 3, resize: 4, write: 5 } as const;
export type Channel = keyof typeof channels;

export const streamStatus = z.strictObject({
  from: z.int().min(0).optional(),
  writer: z.boolean().optional(),
  end: programEnd.optional(),
});
export type StreamStatus = z.infer<typeof streamStatus>;

export const resize = z.strictObject({ rows: z.int().min(1).max(1000), columns: z.int().min(1).max(1000) });
export const writeRequest = z.strictObject({ take: z.literal(true) });

const byNumber = new Map<number, Channel>([
  [channels.input, 'input'],
  [channels.output, 'output'],
  [channels.status, 'status'],
  [channels.resize, 'resize'],
  [channels.write, 'write'],
]);

/** One message: the channel byte, then the bytes (UTF-8 for text). */
export function encodeMessage(channel: Channel, payload: Uint8Array | string): Uint8Array {
  const bytes = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const message = new Uint8Array(bytes.length + 1);
  message[0] = channels[channel];
  message.set(bytes, 1);
  return message;
}

/** The channel and bytes of a message; an empty one or an unknown channel is `invalid_request`. */
export function decodeMessage(message: Uint8Array): { channel: Channel; bytes: Uint8Array } {
  const channel = byNumber.get(message[0] ?? -1);
  if (!channel)
    throw new CarrelError('invalid_request', `unknown stream channel ${message[0] ?? '(empty message)'}`);
  return { channel, bytes: message.subarray(1) };
}
