/**
 * One connection to an agent, and its channels. The other side is a guest: a frame that no agent of ours would send
 * ends the connection, and everybody who waits on it is told so.
 */
import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { sleep } from '#base/deadline.ts';
import type { ConnectOptions } from './agent.ts';
import { payload as build, reading } from './payload.ts';
import {
  type Ask,
  ask,
  createFrameDecoder,
  encodeFrames,
  type Frame,
  nonceBytes,
  padding,
  protocolVersion,
  tell,
} from './wire.ts';

/** Somebody waits on a channel. */
export interface ChannelListener {
  /** Frames of this channel, in order; the payload is good until this returns. A throw ends the connection. */
  frame(type: number, payload: Buffer): void;
  /** The connection has ended. No more is called after this. */
  lost(error: CarrelError): void;
}

export interface Channel {
  send(type: Ask, payload?: Uint8Array): void;
  /** Nobody listens any more; what still comes is thrown away. */
  close(): void;
}

export interface Link {
  readonly bootId: string;
  /** Sends a request on a channel of its own. Throws `machine_lost` when the connection has ended. */
  request(type: Ask, payload: Uint8Array, listener: ChannelListener): Channel;
  /** Ends the connection; those who wait get this error. */
  destroy(error: CarrelError): void;
  /** Resolves when the connection has ended. */
  readonly ended: Promise<CarrelError>;
}

/** Queued for a guest that does not read: more than all requests of ours side by side. */
const maxQueuedBytes = 16 << 20;
/** Frames for channels that have just been closed: an agent has no more on its way. */
const maxLateBytes = 4 << 20;
/** When the hello is said again, with padding before it: half a frame may lie in the guest since an earlier connection. */
const againMs = [1000, 3000, 9000] as const;

const lost = (why: string, cause?: unknown): CarrelError =>
  new CarrelError('machine_lost', `the connection to the machine's agent ended: ${why}`, { cause });

class SocketLink implements Link {
  bootId = '';
  readonly ended: Promise<CarrelError>;
  readonly #socket: Socket;
  readonly #nonce = randomBytes(nonceBytes);
  readonly #decoder = createFrameDecoder(this.#nonce);
  readonly #listeners = new Map<number, ChannelListener>();
  readonly #welcome: Promise<void>;
  #welcomed: () => void = () => undefined;
  #end: (error: CarrelError) => void = () => undefined;
  #error: CarrelError | undefined;
  #last = 0;
  #late = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#welcome = new Promise((resolve) => {
      this.#welcomed = resolve;
    });
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.destroy(lost('it was cut', error)));
    socket.on('close', () => this.destroy(lost('the machine closed it')));
  }

  /** Says hello until it is answered; the caller limits the time. */
  async greet(signal: AbortSignal): Promise<void> {
    const hello = encodeFrames(ask.hello, 0, build().u32(protocolVersion).bytes(this.#nonce).done());
    this.#socket.write(hello);
    const dead = this.ended.then((error) => Promise.reject(error));
    dead.catch(() => undefined);
    const insist = async (): Promise<void> => {
      for (const ms of againMs) {
        await sleep(ms, signal);
        // what is still queued will be read first, and tells nothing about what lies in the guest
        if (this.#socket.writableLength === 0) this.#socket.write(Buffer.concat([padding, hello]));
      }
    };
    void insist().catch(() => undefined);
    await Promise.race([this.#welcome, dead, aborted(signal)]);
  }

  #receive(chunk: Buffer): void {
    if (this.#error) return;
    try {
      this.#decoder.push(chunk, (frame) => this.#frame(frame));
    } catch (error) {
      this.destroy(error instanceof CarrelError ? error : lost('an answer could not be read', error));
    }
  }

  #frame({ type, channel, payload }: Frame): void {
    if (this.#error) return;
    if (type === tell.welcome) return this.#greeted(payload);
    const listener = this.#listeners.get(channel);
    if (listener) return listener.frame(type, payload);
    this.#late += payload.length + 1;
    if (channel === 0 || channel > this.#last || this.#late > maxLateBytes)
      throw lost(`it answered a question that nobody asked (channel ${channel})`);
  }

  /** Every hello is answered, so the welcome may come again. */
  #greeted(payload: Buffer): void {
    const from = reading(payload);
    const version = from.u32();
    if (version !== protocolVersion)
      throw new CarrelError(
        'driver_unsupported',
        `the machine's agent speaks version ${version} of its protocol`,
        {
          hint: `build the image again: version ${protocolVersion} is needed`,
        },
      );
    const bootId = from.rest().subarray(nonceBytes).toString('latin1');
    if (!/^[0-9a-f-]{0,36}$/.test(bootId)) throw lost('its boot id is none');
    this.bootId = bootId;
    this.#late += 64;
    if (this.#late > maxLateBytes) throw lost('it only greets');
    this.#welcomed();
  }

  request(type: Ask, payload: Uint8Array, listener: ChannelListener): Channel {
    const id = this.#last + 1;
    const bytes = encodeFrames(type, id, payload);
    if (this.#error) throw this.#error;
    this.#last = id;
    this.#listeners.set(id, listener);
    this.#write(bytes);
    this.#late = 0;
    return {
      send: (kind, more) => {
        if (!this.#error && this.#listeners.has(id)) this.#write(encodeFrames(kind, id, more));
      },
      close: () => {
        if (this.#listeners.delete(id) && !this.#error) this.#write(encodeFrames(ask.close, id));
      },
    };
  }

  #write(bytes: Buffer): void {
    if (this.#socket.writableLength + bytes.length > maxQueuedBytes)
      this.destroy(lost('the machine does not read what it is asked'));
    else this.#socket.write(bytes);
  }

  destroy(error: CarrelError): void {
    if (this.#error) return;
    this.#error = error;
    this.#socket.destroy();
    this.#end(error);
    const waiting = [...this.#listeners.values()];
    this.#listeners.clear();
    for (const listener of waiting) listener.lost(error);
  }
}

async function aborted(signal: AbortSignal): Promise<never> {
  return await new Promise((_, reject) => {
    const stop = (): void => reject(signal.reason);
    if (signal.aborted) stop();
    else signal.addEventListener('abort', stop, { once: true });
  });
}

/** Nobody listens there: the machine has ended, or has not begun. */
export function isGone(error: unknown): boolean {
  const cause = error instanceof CarrelError ? error.cause : error;
  return errnoOf(cause) === 'ECONNREFUSED' || errnoOf(cause) === 'ENOENT';
}

/**
 * Connects and greets. QEMU takes one connection at a time: while another one is open, this waits.
 * `machine_lost`: nobody listens, or the other side is no agent; `deadline_exceeded`: no welcome in time.
 */
export async function openLink(path: string, { limitMs, signal }: ConnectOptions): Promise<Link> {
  signal?.throwIfAborted();
  const socket = connect(path);
  const link = new SocketLink(socket);
  const late = new AbortController();
  const timer = setTimeout(
    () =>
      late.abort(
        new CarrelError('deadline_exceeded', `the machine's agent did not answer in ${limitMs} ms`, {
          hint: 'the machine may still be starting, or have no agent; its console tells',
        }),
      ),
    limitMs,
  );
  const cancel = (): void => late.abort(signal?.reason);
  signal?.addEventListener('abort', cancel, { once: true });
  try {
    await link.greet(late.signal);
    return link;
  } catch (error) {
    link.destroy(lost('it was given up'));
    throw error;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', cancel);
    late.abort(); // ends the repetition of the hello
  }
}
