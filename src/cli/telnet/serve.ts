/**
 * A machine's console as a port for telnet clients of this host. The port is this process's own: it listens on
 * the loopback only, and speaks to the cloud with its user's token; each client is a reader of its own there.
 */
import { createServer, type Socket } from 'node:net';
import { CarrelError, messageOf } from '#base/errors.ts';
import { formatEndpoint, isLoopback, type Endpoint } from '#fabric/listeners.ts';
import { openStream } from '../stream.ts';
import { createDecoder, encodeOutput, greeting } from './codec.ts';

export interface TelnetOptions {
  readonly listen: Endpoint;
  /** The console's WebSocket. */
  readonly url: URL;
  readonly token?: string | undefined;
  readonly from?: number | undefined;
  readonly readOnly?: boolean;
  readonly say?: (text: string) => void;
}

export interface TelnetServer extends Endpoint {
  close(): Promise<void>;
}

/** More than a class that watches; each is one connection to the cloud. */
const maxClients = 32;

export async function serveTelnet({
  listen,
  say = () => undefined,
  ...options
}: TelnetOptions): Promise<TelnetServer> {
  if (!isLoopback(listen.host))
    throw new CarrelError('forbidden', `${formatEndpoint(listen)} can be reached from outside this host`, {
      hint: 'telnet knows no passwords: choose an address like 127.0.0.1:10002, and come in by ssh',
    });
  const clients = new Set<Socket>();
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    if (clients.size >= maxClients) {
      socket.end(`carrel: ${maxClients} clients are connected already\r\n`);
      return;
    }
    clients.add(socket);
    socket.once('close', () => clients.delete(socket));
    say(`client ${clients.size} connected`);
    void serve(socket, options, say);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) =>
      reject(
        new CarrelError(
          'unavailable',
          `cannot listen on ${formatEndpoint(listen)}: ${cause.code ?? cause.message}`,
          { hint: 'choose another port', cause },
        ),
      ),
    );
    server.listen(listen.port, listen.host, resolve);
  });
  const address = server.address();
  const port = address !== null && typeof address === 'object' ? address.port : listen.port;
  return {
    host: listen.host,
    port,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of clients) socket.destroy();
      await closed;
    },
  };
}

type Console = Omit<TelnetOptions, 'listen' | 'say'>;

async function serve(
  socket: Socket,
  { url, token, from, readOnly = false }: Console,
  say: (text: string) => void,
): Promise<void> {
  const decode = createDecoder();
  let writer = false;
  socket.setNoDelay(true);
  socket.write(greeting);
  const stream = openStream({
    url,
    token,
    from,
    output: (bytes) => send(socket, encodeOutput(bytes)),
    writer(mine) {
      // whoever loses the keyboard is told; who gets it is typing
      if (writer && !mine) socket.write('\r\n[somebody else is typing; type to take over]\r\n');
      writer = mine;
    },
    state: (state) => {
      if (state === 'lost') socket.write('\r\n[connection to the cloud lost, trying again]\r\n');
    },
  });
  socket.on('data', (chunk: Buffer) => {
    const { input, reply, size } = decode(chunk);
    if (reply.length > 0) socket.write(reply);
    if (size) stream.resize(size.rows, size.columns);
    if (input.length === 0 || readOnly) return;
    if (!writer) stream.take();
    writer = true;
    stream.input(input);
  });
  socket.once('close', () => stream.leave());
  try {
    await stream.ended;
    socket.end('\r\n[the console has ended]\r\n');
  } catch (error) {
    say(`a client lost the console: ${messageOf(error)}`);
    socket.end(`\r\ncarrel: ${messageOf(error)}\r\n`);
  }
}

/** Resolves when there is room for more; the stream waits meanwhile. */
function send(socket: Socket, bytes: Uint8Array): Promise<void> {
  if (socket.destroyed || socket.write(bytes)) return Promise.resolve();
  return new Promise((resolve) => {
    const done = (): void => {
      socket.off('drain', done);
      socket.off('close', done);
      resolve();
    };
    socket.on('drain', done);
    socket.on('close', done);
  });
}
