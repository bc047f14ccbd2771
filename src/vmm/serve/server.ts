/**
 * A session behind HTTP and WebSockets, for a page that shows it: one process, one guest, one token.
 *
 *   GET  /snapshot            the whole inspection, and the number of the next event
 *   GET  /events?after=N      events behind number N, as many as are kept and fit one answer
 *   POST /command             a command (messages.ts); its result, or a problem
 *   WS   /stream?after=N      hello, then events as they happen; commands with ids
 *
 * It ends by a command, when nobody was there for a while, or when its time is over; the guest ends with it.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import { longestTimerMs } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { plain } from '../inspect/plain.ts';
import type { MachineOptions } from '../machine.ts';
import { openSession, type Session, type SessionOptions } from '../session/session.ts';
import { type Access, refusal } from './access.ts';
import { EventLog } from './log.ts';
import { type Command, command, vmmProtocol } from './messages.ts';
import { obey } from './obey.ts';
import { parseJson, problemOf, Reader } from './reader.ts';
import { afterOf, body, mostCommand, refuseUpgrade, urlOf } from './request.ts';
import { snapshot } from './snapshot.ts';

/** What is kept for readers who come late or read slowly. */
const kept = { events: 4096, bytes: 8 * 2 ** 20 };
/** Events in one answer of /events. */
const pageEvents = 256;
const mostReaders = 16;
/** Connections at all, of whoever is on this host: one more is closed at once. */
const mostConnections = 256;
const closeMs = 1000;

export interface ServeOptions extends Omit<SessionOptions, 'onEvent'>, Access {
  readonly host: string;
  /** 0: any. */
  readonly port: number;
  /** Ends when nobody was connected, and nobody asked, for so long. */
  readonly idleMs: number;
  /** Ends then in any case. */
  readonly lifetimeMs: number;
}

export type ServeEnd = 'asked' | 'idle' | 'time is over' | 'stopped';

export interface Served {
  readonly host: string;
  readonly port: number;
  /** Resolves when it has ended; nothing is left then. Rejects if something of ours broke. */
  readonly ended: Promise<ServeEnd>;
  /** Ends it. */
  stop(): void;
}

class SessionServer {
  readonly #options: ServeOptions;
  readonly #session: Session;
  readonly #log = new EventLog(kept);
  readonly #began = performance.now();
  readonly #sockets = new WebSocketServer({
    noServer: true,
    maxPayload: mostCommand,
    perMessageDeflate: false,
    // the token that was offered beside it is never said back
    handleProtocols: (offered) => (offered.has(vmmProtocol) ? vmmProtocol : false),
  });
  readonly #readers = new Map<WebSocket, Reader>();
  readonly #server = createServer(
    { headersTimeout: 10_000, requestTimeout: 30_000, maxHeaderSize: 16 * 1024 },
    (incoming, outgoing) => void this.#answer(incoming, outgoing),
  );
  readonly #over = Promise.withResolvers<ServeEnd>();
  #idle: NodeJS.Timeout | undefined;
  /** Readers that go from now on are no reason to wait for others. */
  #closing = false;

  constructor(what: MachineOptions, options: ServeOptions) {
    this.#options = options;
    this.#session = openSession(what, {
      ...options,
      onEvent: (event) => {
        const ms = Math.round(performance.now() - this.#began);
        this.#log.add((seq) => JSON.stringify(plain({ seq, ms, event })));
        for (const reader of this.#readers.values()) reader.pump();
      },
    });
    this.#server.maxConnections = mostConnections;
    this.#server.on('upgrade', (incoming, socket, head) => this.#upgrade(incoming, socket, head));
  }

  /** Somebody was there: the time of waiting begins anew. */
  #touch(): void {
    clearTimeout(this.#idle);
    if (this.#closing || this.#readers.size > 0) return;
    this.#idle = setTimeout(() => this.#over.resolve('idle'), Math.min(this.#options.idleMs, longestTimerMs));
  }

  async #obey(wanted: Command): Promise<unknown> {
    if (wanted.do !== 'end') return await obey(this.#session, wanted, (error) => this.#over.reject(error));
    // after the reply is out
    setImmediate(() => this.#over.resolve('asked'));
    return undefined;
  }

  async #answer(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const { origins = [] } = this.#options;
    const { origin } = incoming.headers;
    if (origin !== undefined && origins.includes(origin)) {
      outgoing.setHeader('access-control-allow-origin', origin);
      outgoing.setHeader('access-control-allow-headers', 'authorization, content-type');
      outgoing.setHeader('vary', 'origin');
    }
    outgoing.setHeader('cache-control', 'no-store');
    const reply = (status: number, body: unknown): void => {
      outgoing.statusCode = status;
      outgoing.setHeader('content-type', 'application/json');
      outgoing.end(JSON.stringify(body));
    };
    try {
      if (incoming.method === 'OPTIONS' && origin !== undefined && origins.includes(origin)) {
        outgoing.statusCode = 204;
        outgoing.end();
        return;
      }
      const refused = refusal(incoming, this.#options);
      if (refused) throw refused;
      this.#touch();
      reply(200, await this.#route(incoming));
    } catch (error) {
      const status = error instanceof CarrelError ? error.status : 500;
      if (outgoing.headersSent) outgoing.destroy();
      else reply(status, problemOf(error));
    }
  }

  async #route(incoming: IncomingMessage): Promise<unknown> {
    const url = urlOf(incoming);
    const route = `${incoming.method ?? ''} ${url.pathname}`;
    if (route === 'GET /snapshot') return { next: this.#log.next, snapshot: snapshot(this.#session) };
    if (route === 'GET /events') return this.#page(afterOf(url));
    if (route !== 'POST /command') throw new CarrelError('not_found', `there is no ${route} here`);
    const wanted = command.safeParse(parseJson(await body(incoming)));
    if (!wanted.success)
      throw new CarrelError('invalid_request', `not a command: ${wanted.error.issues[0]?.message ?? ''}`);
    return { result: (await this.#obey(wanted.data)) ?? null };
  }

  #page(after: number): unknown {
    const from = Math.min(Math.max(after + 1, this.#log.first), this.#log.next);
    const events: unknown[] = [];
    for (let seq = from; events.length < pageEvents; seq += 1) {
      const entry = this.#log.at(seq);
      if (!entry) break;
      events.push(JSON.parse(entry.text));
    }
    return { lost: Math.max(0, from - after - 1), next: this.#log.next, events };
  }

  #upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    const url = urlOf(incoming);
    let refused = refusal(incoming, this.#options);
    if (url.pathname !== '/stream') refused ??= new CarrelError('not_found', 'the stream is at /stream');
    if (this.#readers.size >= mostReaders)
      refused ??= new CarrelError('no_capacity', `${mostReaders} readers are here already`);
    let after = 0;
    try {
      after = afterOf(url);
    } catch (error) {
      refused ??= error instanceof CarrelError ? error : undefined;
    }
    if (refused) refuseUpgrade(socket, refused);
    else this.#sockets.handleUpgrade(incoming, socket, head, (webSocket) => this.#follow(webSocket, after));
  }

  #follow(socket: WebSocket, after: number): void {
    const reader = new Reader(socket, { log: this.#log, next: after + 1 });
    this.#readers.set(socket, reader);
    this.#touch();
    socket.on('error', () => socket.terminate());
    socket.on('close', () => {
      this.#readers.delete(socket);
      this.#touch();
    });
    socket.on('message', (data, isBinary) => {
      if (isBinary || Array.isArray(data)) return socket.close(1003, 'text only');
      void reader.hear(
        Buffer.from(data instanceof ArrayBuffer ? new Uint8Array(data) : data).toString('utf8'),
        (wanted) => this.#obey(wanted),
      );
    });
  }

  async start(): Promise<Served> {
    const { host, port, lifetimeMs } = this.#options;
    const listening = Promise.withResolvers<void>();
    this.#server.once('error', (cause) =>
      listening.reject(
        new CarrelError('unavailable', `cannot listen on ${host}:${port}: ${cause.message}`, { cause }),
      ),
    );
    this.#server.listen({ host, port }, listening.resolve);
    try {
      await listening.promise;
    } catch (error) {
      await this.#session.close();
      throw error;
    }
    this.#touch();
    const lifetime = setTimeout(
      () => this.#over.resolve('time is over'),
      Math.min(lifetimeMs, longestTimerMs),
    );
    const address = this.#server.address();
    return {
      host,
      port: typeof address === 'object' && address ? address.port : port,
      ended: this.#untilOver(lifetime),
      stop: () => this.#over.resolve('stopped'),
    };
  }

  async #untilOver(lifetime: NodeJS.Timeout): Promise<ServeEnd> {
    try {
      return await this.#over.promise;
    } finally {
      clearTimeout(lifetime);
      await this.#close();
    }
  }

  async #close(): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#idle);
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve());
    });
    await this.#session.close();
    for (const socket of this.#readers.keys()) socket.close(1001, 'the session has ended');
    this.#server.closeIdleConnections();
    const cut = setTimeout(() => {
      for (const socket of this.#readers.keys()) socket.terminate();
      this.#server.closeAllConnections();
    }, closeMs);
    await closed;
    clearTimeout(cut);
  }
}

/** Serves a session until it ends. */
export async function serveSession(what: MachineOptions, options: ServeOptions): Promise<Served> {
  return await new SessionServer(what, options).start();
}
