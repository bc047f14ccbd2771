/**
 * The listening side: Node's HTTP server with limits against slow and greedy clients, WebSocket upgrades through
 * the same application, and an orderly end.
 */
import { createServer, STATUS_CODES, type IncomingMessage, type Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import type { Hono } from 'hono';
import { WebSocketServer } from 'ws';
import { within } from '#base/deadline.ts';
import { CarrelError, messageOf } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import { streamProtocol } from '#contract/stream.ts';
import type { Bindings } from './app.ts';

/** Where to listen: a descriptor that the doorman opened, or (for development) an address. */
export type Listen = { readonly fd: number } | { readonly host: string; readonly port: number };

export interface ListenOptions {
  readonly app: Hono<{ Bindings: Bindings }>;
  readonly listen: Listen;
  readonly limits?: Partial<HttpLimits>;
  /** Origins beside the server's own from which browsers may open WebSockets. */
  readonly origins?: readonly string[];
  readonly log?: Logger;
}

export interface HttpLimits {
  /** For the head of a request: who sends it byte by byte is cut off. */
  readonly headersMs: number;
  /** For a whole request, a long upload included. */
  readonly requestMs: number;
  /** A connection on which nothing moves; long polls and event streams move more often. */
  readonly idleMs: number;
  readonly keepAliveMs: number;
  /** How often the first two are checked. */
  readonly checkEveryMs: number;
  readonly connections: number;
  /** One WebSocket message; input comes in small pieces. */
  readonly messageBytes: number;
}

const defaults: HttpLimits = {
  headersMs: 10_000,
  requestMs: 15 * 60_000,
  idleMs: 120_000,
  keepAliveMs: 65_000,
  checkEveryMs: 15_000,
  connections: 4096,
  messageBytes: 128 * 2 ** 10,
};

export interface Listening {
  readonly host: string;
  readonly port: number;
  /** Stops accepting, lets answers finish for `graceMs`, then cuts what is left. */
  close(options?: { graceMs?: number }): Promise<void>;
}

export async function listenHttp({
  app,
  listen,
  limits: some = {},
  origins = [],
  log = silent,
}: ListenOptions): Promise<Listening> {
  const limits = { ...defaults, ...some };
  const listener = getRequestListener((request, env) => app.fetch(request, { incoming: incomingOf(env) }), {
    errorHandler: () => new Response(null, { status: 400 }),
  });
  const server = createServer(
    {
      headersTimeout: limits.headersMs,
      requestTimeout: limits.requestMs,
      keepAliveTimeout: limits.keepAliveMs,
      connectionsCheckingInterval: limits.checkEveryMs,
      maxHeaderSize: 16 * 2 ** 10,
      insecureHTTPParser: false,
    },
    (incoming, outgoing) => {
      letLinger(incoming);
      void listener(incoming, outgoing);
    },
  );
  server.maxConnections = limits.connections;
  server.timeout = limits.idleMs;
  server.on('clientError', refuseRaw);
  const sockets = new WebSocketServer({
    noServer: true,
    maxPayload: limits.messageBytes,
    perMessageDeflate: false,
    // A token offered as a protocol is never said back.
    handleProtocols: (offered) => (offered.has(streamProtocol) ? streamProtocol : false),
  });
  server.on('upgrade', (incoming, socket, head) => {
    upgrade({ app, sockets, origins }, incoming, socket, head).catch((error: unknown) => {
      log.warn('an upgrade failed', { error: messageOf(error) });
      socket.destroy();
    });
  });
  const { host, port } = await start(server, listen);
  return {
    host,
    port,
    async close({ graceMs = 3000 } = {}) {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      for (const socket of sockets.clients) socket.close(1001, 'the server is shutting down');
      await within(graceMs, 'answers to finish', closed).catch(() => undefined);
      for (const socket of sockets.clients) socket.terminate();
      server.closeAllConnections();
      await within(1000, 'the server to close', closed).catch(() => undefined);
    },
  };
}

/** How long, and for how many bytes, a sender whose body is refused may go on before he is cut off. */
const linger = { ms: 1000, bytes: 64 * 2 ** 20 } as const;

/**
 * A connection that is closed while its sender still sends is reset, and the answer that was on its way is lost
 * with it (RFC 9112, 9.6). So where the rest of a body is not wanted, only our side is closed after the answer;
 * what still comes is thrown away, for a while.
 */
function letLinger(incoming: IncomingMessage): void {
  const { socket } = incoming;
  let lingering = false;
  socket.destroySoon = () => {
    if (incoming.complete || lingering || socket.destroyed) return Socket.prototype.destroySoon.call(socket);
    lingering = true;
    const from = socket.bytesRead;
    const timer = setTimeout(() => socket.destroy(), linger.ms);
    socket.once('close', () => clearTimeout(timer));
    // whoever read the body pauses it at the next piece, which he does not want any more
    incoming.removeAllListeners('data');
    incoming.on('data', () => {
      if (socket.bytesRead - from > linger.bytes) socket.destroy();
    });
    socket.end();
    incoming.resume();
  };
}

function incomingOf(env: object): IncomingMessage {
  // node-server gives Node's own objects for HTTP/1, which is all that is served here.
  // oxlint-disable-next-line typescript/no-unsafe-type-assertion
  return (env as { incoming: IncomingMessage }).incoming;
}

async function start(server: Server, listen: Listen): Promise<{ host: string; port: number }> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        new CarrelError(
          'unavailable',
          `cannot listen on ${'fd' in listen ? `fd ${listen.fd}` : `${listen.host}:${listen.port}`}: ${cause.message}`,
          {
            cause,
          },
        ),
      ),
    );
    server.listen('fd' in listen ? { fd: listen.fd } : { ...listen, backlog: 1024 }, resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') return { host: address ?? '', port: 0 };
  return { host: address.address, port: address.port };
}

/** What Node cannot even parse, or gave up waiting for. */
function refuseRaw(error: NodeJS.ErrnoException, socket: Duplex): void {
  if (!socket.writable || error.code === 'ECONNRESET') {
    socket.destroy();
    return;
  }
  const status =
    error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 408 : error.code === 'HPE_HEADER_OVERFLOW' ? 431 : 400;
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`,
  );
}

/** Browsers say where a page came from; a foreign page may not open our WebSockets with its visitor's token. */
function checkOrigin(incoming: IncomingMessage, origins: readonly string[]): boolean {
  const { origin, host } = incoming.headers;
  if (origin === undefined) return true;
  if (origins.includes(origin)) return true;
  return URL.canParse(origin) && new URL(origin).host === host;
}

interface Upgrader {
  readonly app: Hono<{ Bindings: Bindings }>;
  readonly sockets: WebSocketServer;
  readonly origins: readonly string[];
}

/** Runs the request through the application; only what it allowed is upgraded, the rest gets its answer. */
async function upgrade(
  { app, sockets, origins }: Upgrader,
  incoming: IncomingMessage,
  socket: Duplex,
  head: Buffer,
): Promise<void> {
  socket.on('error', () => socket.destroy());
  if (incoming.method !== 'GET' || incoming.headers.upgrade?.toLowerCase() !== 'websocket')
    return writeRaw(socket, new Response(null, { status: 400 }));
  if (!checkOrigin(incoming, origins)) return writeRaw(socket, new Response(null, { status: 403 }));
  const url = `http://${incoming.headers.host ?? 'localhost'}${incoming.url ?? '/'}`;
  if (!URL.canParse(url)) return writeRaw(socket, new Response(null, { status: 400 }));
  const headers = new Headers();
  for (const [name, value] of Object.entries(incoming.headers))
    if (typeof value === 'string') headers.set(name, value);
  const gone = new AbortController();
  socket.once('close', () => gone.abort());
  const env: Bindings & { upgrade: NonNullable<Bindings['upgrade']> } = {
    incoming,
    upgrade: { attachment: undefined },
  };
  const response = await app.fetch(new Request(url, { headers, signal: gone.signal }), env);
  const { attachment } = env.upgrade;
  if (!attachment) return writeRaw(socket, response);
  sockets.handleUpgrade(incoming, socket, head, (webSocket) => attachment(webSocket));
}

async function writeRaw(socket: Duplex, response: Response): Promise<void> {
  const body = Buffer.from(await response.arrayBuffer());
  const lines = [`HTTP/1.1 ${response.status} ${STATUS_CODES[response.status] ?? ''}`];
  for (const [name, value] of response.headers)
    if (name !== 'connection' && name !== 'content-length') lines.push(`${name}: ${value}`);
  lines.push('connection: close', `content-length: ${body.length}`, '', '');
  socket.end(Buffer.concat([Buffer.from(lines.join('\r\n'), 'latin1'), body]));
}
