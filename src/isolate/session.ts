/**
 * A session: one connection to the fork server (or to a machine's exec server), executing plans one after the
 * other. Closing it kills what it runs.
 */
import { connect, type Socket } from 'node:net';
import { CarrelError } from '#base/errors.ts';
import { within } from '#base/deadline.ts';
import { descriptorOf, sendFds } from '#host/fds.ts';
import { createFrameDecoder, encodeFrame, encodeInput, type Frame } from './frames.ts';
import { parseMessage, planError, type Message, type Report } from './messages.ts';
import { encodePlan, type Operation } from './plan.ts';

/** How long a cancelled run may take to report its own death before the connection is cut. */
const cancelMs = 3000;
const connectMs = 5000;
/** Of one plan (MAX_PASSED in src/native/isolate/isolate.h). */
const maxPassed = 8;

export interface CollectedFile {
  readonly data?: Buffer;
  /** `ENOENT`, `EFBIG` (over the limit), `ELOOP` (a symbolic link), `EINVAL` (not a regular file), ... */
  readonly error?: string;
}

export interface RunResult {
  readonly report: Report;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly result: Buffer;
  /** In the order of the plan's collect operations. */
  readonly files: readonly CollectedFile[];
}

export interface RunOptions {
  readonly stdin?: Uint8Array | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Called at the plan's sync operation, while the child waits. */
  readonly onCloned?: ((pid: number) => Promise<void>) | undefined;
  /**
   * Open descriptors that go along with the plan (SCM_RIGHTS, unix(7)): `op.stdio(1, 'fd', '0')` makes the first
   * of them the program's standard output. They stay open here too, and are the caller's to close.
   */
  readonly fds?: readonly number[] | undefined;
}

export interface Session {
  readonly closed: boolean;
  run(operations: readonly Operation[], options?: RunOptions): Promise<RunResult>;
  /** A plan without a program: it changes the session itself. */
  configure(operations: readonly Operation[]): Promise<void>;
  /** For runs that are watched live: raw frames in and out. The caller closes the session afterwards. */
  stream(
    operations: readonly Operation[],
    onFrame: (frame: Frame) => void,
    onEnd: (error?: Error) => void,
    fds?: readonly number[],
  ): FrameSink;
  close(): void;
}

export interface FrameSink {
  /** False when the socket's buffer is full or the session has ended. */
  send(kind: string, payload?: Uint8Array | string): boolean;
  /** Stops reading, and with it the program once its pipes are full. */
  pause(): void;
  resume(): void;
}

export function lost(cause?: unknown): CarrelError {
  return new CarrelError('helper_failed', 'The isolation server went away during the run', {
    hint: 'the run left nothing behind; it can be repeated',
    cause,
  });
}

function refuseTooMany(fds: readonly number[]): void {
  if (fds.length > maxPassed)
    throw new CarrelError('validation_failed', `At most ${maxPassed} descriptors go along with a plan`);
}

/** Collects what one run answers. */
class Answer {
  readonly #streams: Record<string, Buffer[]> = { '1': [], '2': [], '3': [] };
  readonly #pieces: Buffer[][] = [];
  readonly #files: CollectedFile[] = [];

  output(frame: Frame): void {
    this.#streams[frame.kind]?.push(frame.payload);
  }

  file(payload: Buffer): void {
    if (payload.length < 5)
      throw new CarrelError('helper_failed', 'The isolation server sent half a file frame');
    const index = payload.readUInt32LE(0);
    const state = payload.toString('latin1', 4, 5);
    const pieces = (this.#pieces[index] ??= []);
    if (state === 'm') pieces.push(payload.subarray(5));
    else
      this.#files[index] =
        state === 'e' ? { data: Buffer.concat(pieces) } : { error: payload.toString('latin1', 5) };
  }

  result(report: Report): RunResult {
    const joined = (kind: string): Buffer => Buffer.concat(this.#streams[kind] ?? []);
    return { report, stdout: joined('1'), stderr: joined('2'), result: joined('3'), files: this.#files };
  }
}

interface Listener {
  frame(frame: Frame): void;
  end(error: Error): void;
}

class SocketSession implements Session {
  readonly #socket: Socket;
  #listener: Listener | undefined;
  #closed = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    const decode = createFrameDecoder();
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const frame of decode(chunk)) this.#listener?.frame(frame);
      } catch (error) {
        this.#end(error instanceof Error ? error : lost(error));
      }
    });
    socket.on('error', (error) => this.#end(lost(error)));
    socket.on('close', () => this.#end(lost()));
  }

  get closed(): boolean {
    return this.#closed;
  }

  close(): void {
    this.#end(lost());
  }

  #end(error: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.destroy();
    const listener = this.#listener;
    this.#listener = undefined;
    listener?.end(error);
  }

  #start(listener: Listener): void {
    if (this.#closed) throw lost();
    if (this.#listener) throw new CarrelError('internal', 'A session runs one plan at a time');
    this.#listener = listener;
  }

  /** Bytes, and descriptors with the first of them. */
  #send(bytes: Buffer, fds: readonly number[]): void {
    if (fds.length === 0) return void this.#socket.write(bytes);
    // past Node's own queue: it must be empty, or the descriptors would overtake what stands in it
    const sent =
      this.#socket.writableLength > 0 ? undefined : sendFds(descriptorOf(this.#socket), bytes, fds);
    if (sent === undefined) {
      this.close();
      throw new CarrelError('helper_failed', 'The isolation server does not take the plan');
    }
    if (sent < bytes.length) this.#socket.write(bytes.subarray(sent));
  }

  async run(operations: readonly Operation[], options: RunOptions = {}): Promise<RunResult> {
    const { stdin, signal, onCloned, fds = [] } = options;
    signal?.throwIfAborted();
    refuseTooMany(fds);
    const plan = encodeFrame('P', encodePlan(operations));
    const answer = new Answer();
    let late: NodeJS.Timeout | undefined;
    const cancel = (): void => {
      this.#socket.write(encodeFrame('k'));
      late = setTimeout(() => this.close(), cancelMs);
    };
    try {
      return await new Promise<RunResult>((resolve, reject) => {
        const settle = (message: Message): void => {
          if (message.phase === 'cloned') {
            const ready = onCloned ? onCloned(message.pid) : Promise.resolve();
            ready.then(
              () => this.#socket.write(encodeFrame('g')),
              (error: unknown) => {
                reject(error);
                this.close();
              },
            );
            return;
          }
          if (message.phase !== 'report' && message.phase !== 'error') return;
          this.#listener = undefined;
          if (message.phase === 'report') resolve(answer.result(message));
          else reject(planError(message));
        };
        this.#start({
          frame: (frame) => {
            if (frame.kind === 'J') settle(parseMessage(frame.payload));
            else if (frame.kind === 'F') answer.file(frame.payload);
            else answer.output(frame);
          },
          end: reject,
        });
        signal?.addEventListener('abort', cancel, { once: true });
        this.#send(
          stdin === undefined ? plan : Buffer.concat([plan, encodeInput(stdin, { end: true })]),
          fds,
        );
      });
    } finally {
      clearTimeout(late);
      signal?.removeEventListener('abort', cancel);
    }
  }

  async configure(operations: readonly Operation[]): Promise<void> {
    const plan = encodeFrame('P', encodePlan(operations));
    await new Promise<void>((resolve, reject) => {
      this.#start({
        frame: (frame) => {
          const message = parseMessage(frame.payload);
          this.#listener = undefined;
          if (message.phase === 'error') reject(planError(message));
          else resolve();
        },
        end: reject,
      });
      this.#socket.write(plan);
    });
  }

  stream(
    operations: readonly Operation[],
    onFrame: (frame: Frame) => void,
    onEnd: (error?: Error) => void,
    fds: readonly number[] = [],
  ): FrameSink {
    const plan = operations.length ? encodeFrame('P', encodePlan(operations)) : undefined;
    refuseTooMany(fds);
    this.#start({ frame: onFrame, end: onEnd });
    if (plan) this.#send(plan, fds);
    return {
      send: (kind, payload) => !this.#closed && this.#socket.write(encodeFrame(kind, payload)),
      pause: () => void this.#socket.pause(),
      resume: () => void this.#socket.resume(),
    };
  }
}

/** Connects to a fork server, an exec server, or a kept run's own socket. */
export async function connectSession(path: string): Promise<Session> {
  const socket = connect(path);
  const ready = new Promise<Session>((resolve, reject) => {
    socket.once('connect', () => {
      socket.off('error', reject);
      resolve(new SocketSession(socket));
    });
    socket.once('error', reject);
  });
  try {
    return await within(connectMs, `a connection to ${path}`, ready);
  } catch (error) {
    socket.destroy();
    throw new CarrelError('helper_failed', `Cannot reach the isolation server at ${path}`, { cause: error });
  }
}
