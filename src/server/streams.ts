/**
 * A terminal over a WebSocket: contract/stream.ts on the wire, machines/stream.ts behind it. Output is taken from
 * the machine only as fast as the connection takes it; a reader who does not keep up is disconnected (1013) and
 * comes back with `?from=`.
 */
import type { WebSocket } from 'ws';
import { z } from 'zod';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { decodeMessage, encodeMessage, resize, writeRequest } from '#contract/stream.ts';
import type { Attachment, StreamMessage } from '#machines/stream.ts';

/** Bytes on their way to the client before we wait for it. */
const HIGH_WATER = 256 * 2 ** 10;
/** How long a full connection may stay full. */
const PATIENCE_MS = 30_000;
const PULSE_MS = 30_000;
/** Input waiting to be taken by the machine. */
const MAX_PENDING_INPUT = 2 ** 20;

const closeCodes = { ended: 1000, goingAway: 1001, badMessage: 1008, internal: 1011, tooSlow: 1013 } as const;

/** Joins the two until either ends. */
export function attachSocket(socket: WebSocket, stream: Attachment): void {
  let alive = true;
  const pulse = setInterval(() => {
    if (!alive) return socket.terminate();
    alive = false;
    socket.ping();
  }, PULSE_MS).unref();
  socket.on('pong', () => (alive = true));
  socket.on('error', () => socket.terminate());
  socket.on('close', () => {
    clearInterval(pulse);
    stream.close();
  });
  receive(socket, stream);
  void send(socket, stream).catch((error: unknown) => {
    if (isCarrelError(error, 'gone')) socket.close(closeCodes.tooSlow, reasonOf(error));
    else socket.close(closeCodes.internal, reasonOf(error));
  });
}

/** A close reason has at most 123 bytes (RFC 6455, 5.5). */
function reasonOf(error: unknown): string {
  return Buffer.from(error instanceof CarrelError ? messageOf(error) : 'internal error')
    .subarray(0, 120)
    .toString()
    .replace(/\uFFFD$/, '');
}

function encode(message: StreamMessage): Uint8Array {
  return message.kind === 'output'
    ? encodeMessage('output', message.bytes)
    : encodeMessage('status', JSON.stringify(message.status));
}

async function send(socket: WebSocket, stream: Attachment): Promise<void> {
  for await (const message of stream) {
    if (socket.readyState !== socket.OPEN) return;
    socket.send(encode(message));
    if (socket.bufferedAmount > HIGH_WATER && !(await drained(socket))) {
      socket.close(closeCodes.tooSlow, 'the reader was too slow');
      // Its buffers are full: the close frame may never arrive.
      setTimeout(() => socket.terminate(), 1000).unref();
      return;
    }
  }
  socket.close(closeCodes.ended, 'ended');
}

/** Waits until the connection has taken most of what it was given; false if it does not in time. */
async function drained(socket: WebSocket): Promise<boolean> {
  const end = performance.now() + PATIENCE_MS;
  while (socket.bufferedAmount > HIGH_WATER / 2) {
    if (socket.readyState !== socket.OPEN) return true;
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return true;
}

const parseWith = <T>(schema: z.ZodType<T>, bytes: Uint8Array): T => {
  const parsed = schema.safeParse(JSON.parse(Buffer.from(bytes).toString()));
  if (parsed.success) return parsed.data;
  throw new CarrelError('invalid_request', z.prettifyError(parsed.error));
};

/** Messages are handled one after another; a flood of input stops the reading of the socket, not the daemon. */
function receive(socket: WebSocket, stream: Attachment): void {
  let work = Promise.resolve();
  let pending = 0;
  const handle = async (data: Buffer): Promise<void> => {
    const { channel, bytes } = decodeMessage(data);
    if (channel === 'input') return stream.write(bytes);
    if (channel === 'resize') return stream.resize(parseWith(resize, bytes));
    if (channel === 'write') {
      parseWith(writeRequest, bytes);
      return stream.takeWriter();
    }
    throw new CarrelError('invalid_request', `channel ${channel} is the server’s`);
  };
  socket.on('message', (raw: Buffer | ArrayBuffer | Buffer[], isBinary: boolean) => {
    if (!isBinary || !Buffer.isBuffer(raw)) return socket.close(closeCodes.badMessage, 'messages are binary');
    pending += raw.length;
    if (pending > MAX_PENDING_INPUT) socket.pause();
    work = work
      .then(() => handle(raw))
      .catch((error: unknown) => {
        // Typing into somebody else's terminal is refused by news, not by hanging up.
        if (isCarrelError(error, 'wrong_state'))
          socket.send(encodeMessage('status', JSON.stringify({ writer: false })));
        else socket.close(closeCodes.badMessage, reasonOf(error));
      })
      .finally(() => {
        pending -= raw.length;
        if (pending <= MAX_PENDING_INPUT / 2 && socket.isPaused) socket.resume();
      });
  });
}
