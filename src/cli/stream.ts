/**
 * A terminal or output stream of the cloud, over a WebSocket (contract/stream.ts). Counts the bytes it has seen
 * and, when the connection is lost, comes back with `?from=` that count: no byte is lost and none comes twice.
 */
import { WebSocket, type RawData } from 'ws';
import { sleep } from '#base/deadline.ts';
import { CarrelError, errorCodes, messageOf, type ErrorCode } from '#base/errors.ts';
import { problem } from '#contract/schemas/common.ts';
import type { ProgramEnd } from '#contract/schemas/machines.ts';
import { decodeMessage, encodeMessage, streamStatus, type Channel } from '#contract/stream.ts';

export interface StreamOptions {
  /** http(s) address of the route. */
  readonly url: URL;
  readonly token?: string | undefined;
  /** First byte wanted; what is kept from there on unless given. */
  readonly from?: number | undefined;
  /** Takes output; a promise holds the stream back until it resolves. */
  readonly output: (bytes: Uint8Array) => void | Promise<void>;
  /** Told whether we are the one who writes, whenever that is said. */
  readonly writer?: (mine: boolean) => void;
  /** Told when the connection is lost and when it is back. */
  readonly state?: (state: 'lost' | 'back') => void;
  /** How long to try to come back. */
  readonly patienceMs?: number;
}

export interface Stream {
  /** Resolves with the program's end; undefined after `leave`, or where the stream ended without one. */
  readonly ended: Promise<ProgramEnd | undefined>;
  /** Bytes typed while the connection is lost wait for it. */
  input(bytes: Uint8Array): void;
  /** Becomes the one who writes; whoever was it is told. */
  take(): void;
  resize(rows: number, columns: number): void;
  /** Goes away; the program stays. */
  leave(): void;
}

/** Close codes (RFC 6455, 7.4.1): the end of the stream, and a refusal that trying again cannot change. */
const normalClosure = 1000;
const policyViolation = 1008;
const maxWaiting = 1 << 20;
const takeIt = JSON.stringify({ take: true });

function isCode(code: string): code is ErrorCode {
  return code in errorCodes;
}

function bytesOf(data: RawData): Uint8Array {
  if (Array.isArray(data)) return Buffer.concat(data);
  return data instanceof ArrayBuffer ? new Uint8Array(data) : data;
}

/** What the server answered instead of a WebSocket. */
function refusal(status: number, body: string): CarrelError {
  let json: unknown;
  try {
    json = JSON.parse(body);
  } catch {
    json = undefined;
  }
  const parsed = problem.safeParse(json);
  if (!parsed.success)
    return new CarrelError(status >= 500 ? 'unavailable' : 'internal', `the server answered ${status}`);
  const { code, detail, hint } = parsed.data;
  return new CarrelError(isCode(code) ? code : 'internal', detail, hint === undefined ? {} : { hint });
}

interface Closed {
  readonly opened: boolean;
  readonly code: number;
  readonly error?: CarrelError;
}

export function openStream(options: StreamOptions): Stream {
  const { token, output, writer = () => undefined, state = () => undefined, patienceMs = 60_000 } = options;
  let offset = options.from;
  let socket: WebSocket | undefined;
  let left = false;
  let end: ProgramEnd | undefined;
  let failure: unknown;
  let size: { rows: number; columns: number } | undefined;
  const waiting: Uint8Array[] = [];
  let taking = false;
  const leaving = new AbortController();

  const send = (channel: Channel, payload: Uint8Array | string): boolean => {
    if (socket?.readyState !== WebSocket.OPEN) return false;
    socket.send(encodeMessage(channel, payload));
    return true;
  };
  const greet = (): void => {
    if (size) send('resize', JSON.stringify(size));
    if (taking) taking = !send('write', takeIt);
    for (const bytes of waiting.splice(0)) send('input', bytes);
  };

  const take = async (message: Uint8Array): Promise<void> => {
    const { channel, bytes } = decodeMessage(message);
    if (channel === 'output') {
      offset = (offset ?? 0) + bytes.length;
      await output(bytes);
    } else if (channel === 'status') {
      const said = streamStatus.parse(JSON.parse(Buffer.from(bytes).toString('utf8')));
      // the first one says where the server really begins: later than asked, if bytes are no longer kept
      if (said.from !== undefined) offset = said.from;
      if (said.writer !== undefined) writer(said.writer);
      if (said.end) end = said.end;
    }
  };

  /** One connection, from opening to closing. */
  const connectOnce = (): Promise<Closed> =>
    new Promise((resolve) => {
      const url = new URL(options.url);
      url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
      if (offset !== undefined) url.searchParams.set('from', String(offset));
      if (size) {
        url.searchParams.set('rows', String(size.rows));
        url.searchParams.set('columns', String(size.columns));
      }
      const connection = new WebSocket(url, {
        handshakeTimeout: 10_000,
        maxPayload: 16 << 20,
        ...(token !== undefined && { headers: { authorization: `Bearer ${token}` } }),
      });
      socket = connection;
      let opened = false;
      let error: CarrelError | undefined;
      let work = Promise.resolve();
      connection.on('open', () => {
        opened = true;
        if (left) connection.close(normalClosure);
        greet();
      });
      connection.on('message', (data) => {
        connection.pause();
        work = work
          .then(() => take(bytesOf(data)))
          .catch((thrown: unknown) => {
            failure = thrown;
            connection.terminate();
          })
          .finally(() => connection.resume());
      });
      connection.on('unexpected-response', (request, response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () => {
          error = refusal(response.statusCode ?? 500, Buffer.concat(chunks).toString('utf8'));
          request.destroy();
          connection.terminate();
        });
      });
      connection.on('error', () => undefined); // 'close' follows
      connection.on('close', (code) => {
        void work.then(() => resolve({ opened, code, ...(error && { error }) }));
      });
    });

  const run = async (): Promise<ProgramEnd | undefined> => {
    let lostAt: number | undefined;
    for (let delay = 50; ; delay = Math.min(delay * 2, 2000)) {
      const closed = await connectOnce();
      if (failure !== undefined) throw failure instanceof Error ? failure : new Error(messageOf(failure));
      if (end || left || (closed.opened && closed.code === normalClosure)) return end;
      if (closed.error && closed.error.code !== 'unavailable') throw closed.error;
      if (closed.code === policyViolation) throw new CarrelError('forbidden', 'the server closed the stream');
      if (closed.opened) {
        lostAt = undefined;
        delay = 50;
      }
      lostAt ??= performance.now();
      if (performance.now() - lostAt > patienceMs)
        throw closed.error ?? new CarrelError('unavailable', `the connection to ${options.url.host} is lost`);
      state('lost');
      await sleep(delay, leaving.signal).catch(() => undefined);
      if (leaving.signal.aborted) return end;
      state('back');
    }
  };

  return {
    ended: run(),
    input(bytes) {
      if (send('input', bytes)) return;
      if (waiting.reduce((sum, chunk) => sum + chunk.length, bytes.length) <= maxWaiting) waiting.push(bytes);
    },
    take() {
      taking = !send('write', takeIt);
    },
    resize(rows, columns) {
      size = { rows, columns };
      send('resize', JSON.stringify(size));
    },
    leave() {
      left = true;
      leaving.abort();
      socket?.close(normalClosure);
    },
  };
}
