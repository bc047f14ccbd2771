/**
 * The doorman's socket, DIR/run/doorman.sock: how the daemon, inside, asks for what only the outside can do.
 * One JSON line there, one JSON line back; a descriptor comes along as SCM_RIGHTS. Only the owner of the data
 * directory can connect (mode 0600 in a 0700 directory).
 */
import { chmodSync, rmSync } from 'node:fs';
import { type Server, type Socket, createServer } from 'node:net';
import * as z from 'zod';
import { CarrelError, errorCodes, messageOf } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { type Fd, descriptorOf, ownFd, receiveFds, sendFds } from '#host/fds.ts';
import { syscall, trySyscall } from '#host/syscalls.ts';

const requestSchema = z.discriminatedUnion('ask', [
  /** A listening socket in the host's namespace. */
  z.strictObject({ ask: z.literal('listen'), host: z.string().max(64), port: z.int().min(0).max(65535) }),
  z.strictObject({ ask: z.literal('status') }),
  /** `fabric`: end the network namespace as well (the machines are ended already). */
  z.strictObject({ ask: z.literal('shutdown'), fabric: z.boolean() }),
]);

export type ControlRequest = z.infer<typeof requestSchema>;

const endpointSchema = z.strictObject({ host: z.string(), port: z.int() });

const statusSchema = z.strictObject({
  pid: z.int(),
  daemonPid: z.int().nullable(),
  daemonRestarts: z.int(),
  listeners: z.array(z.strictObject({ name: z.string(), host: z.string(), port: z.int() })),
  netns: z.string(),
  uplink: z.strictObject({ up: z.boolean(), reason: z.string().nullable() }),
});

export type DoormanStatus = z.infer<typeof statusSchema>;

const errorCodeSchema = z
  .string()
  .transform((code) => Object.keys(errorCodes).find((known) => known === code));

const answerSchema = z.union([
  z.strictObject({ listening: endpointSchema }),
  z.strictObject({ status: statusSchema }),
  z.strictObject({ stopping: z.literal(true) }),
  z.strictObject({
    error: z.strictObject({ code: errorCodeSchema, message: z.string(), hint: z.string().optional() }),
  }),
]);

type Answer = z.infer<typeof answerSchema>;

export interface ControlReply {
  readonly answer:
    | { readonly listening: z.infer<typeof endpointSchema> }
    | { readonly status: DoormanStatus }
    | { readonly stopping: true };
  /** Sent along and then closed on our side. */
  readonly fd?: Fd;
}

const MAX_REQUEST = 4096;
const MAX_PATH = 107; // struct sockaddr_un, unix(7)

function checkPath(path: string): void {
  if (Buffer.byteLength(path) > MAX_PATH)
    throw new CarrelError(
      'validation_failed',
      `The path of a socket has at most ${MAX_PATH} bytes: ${path}`,
      {
        hint: 'choose a data directory with a shorter path: --data DIR',
      },
    );
}

function errorAnswer(error: unknown): object {
  const known = error instanceof CarrelError ? error : new CarrelError('internal', messageOf(error));
  return {
    error: {
      code: known.code,
      message: known.message,
      ...(known.hint === undefined ? {} : { hint: known.hint }),
    },
  };
}

async function converse(
  socket: Socket,
  line: string,
  handle: (request: ControlRequest) => ControlReply | Promise<ControlReply>,
): Promise<void> {
  let reply: ControlReply | undefined;
  let answer: object;
  try {
    const parsed = requestSchema.safeParse(JSON.parse(line));
    if (!parsed.success) throw new CarrelError('invalid_request', z.prettifyError(parsed.error));
    reply = await handle(parsed.data);
    ({ answer } = reply);
  } catch (error) {
    answer = errorAnswer(
      error instanceof SyntaxError ? new CarrelError('invalid_request', 'not JSON') : error,
    );
  }
  try {
    sendFds(descriptorOf(socket), Buffer.from(`${JSON.stringify(answer)}\n`), reply?.fd ? [reply.fd.fd] : []);
  } catch {
    // gone before the answer: then nobody wants it
  } finally {
    reply?.fd?.close();
    socket.end();
  }
}

/** Serves the socket. The caller holds the doorman's lock, so a file that is there already is a dead one's. */
export async function serveControl({
  path,
  handle,
}: {
  path: string;
  handle: (request: ControlRequest) => ControlReply | Promise<ControlReply>;
}): Promise<{ close(): Promise<void> }> {
  checkPath(path);
  rmSync(path, { force: true });
  const server: Server = createServer((socket) => {
    let text = '';
    socket.setTimeout(5000, () => socket.destroy());
    socket.on('error', () => socket.destroy());
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString('utf8');
      const end = text.indexOf('\n');
      if (end < 0 && text.length > MAX_REQUEST) socket.destroy();
      if (end < 0) return;
      socket.removeAllListeners('data');
      void converse(socket, text.slice(0, end), handle);
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  chmodSync(path, 0o600);
  return {
    async close() {
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
      rmSync(path, { force: true });
    },
  };
}

/** Connects without waiting: a doorman that listens accepts at once. */
function connect(path: string): Fd {
  checkPath(path);
  const socket = ownFd(syscall('socket', 1, 1 | 0o2000000, 0));
  const address = Buffer.alloc(110);
  address.writeUInt16LE(1, 0);
  address.write(path, 2);
  const result = trySyscall('connect', socket.fd, address, 3 + Buffer.byteLength(path));
  if (result === 0) return socket;
  socket.close();
  throw new CarrelError('unavailable', `Carrel's doorman does not answer at ${path}`, {
    hint: 'start the cloud with: carrel up',
  });
}

/** Asks the doorman one thing. A descriptor that came along belongs to the caller. */
async function ask(
  path: string,
  request: ControlRequest,
  ms: number,
): Promise<{ answer: Answer; fd: Fd | undefined }> {
  using socket = connect(path);
  sendFds(socket.fd, Buffer.from(`${JSON.stringify(request)}\n`));
  const received = await until(ms, 'the doorman to answer', () => receiveFds(socket.fd), { everyMs: 2 });
  const [fd, ...rest] = received.fds;
  for (const other of rest) other.close();
  try {
    const answer = answerSchema.parse(JSON.parse(received.data.toString('utf8')));
    if ('error' in answer) {
      const { code, message, hint } = answer.error;
      throw new CarrelError(isCode(code) ? code : 'internal', message, hint === undefined ? {} : { hint });
    }
    return { answer, fd };
  } catch (error) {
    fd?.close();
    throw error;
  }
}

function isCode(code: string | undefined): code is keyof typeof errorCodes {
  return code !== undefined && code in errorCodes;
}

const unexpected = (): CarrelError => new CarrelError('internal', 'the doorman answered something else');

/** A listening socket in the host's namespace, for a forward: serve it with `server.listen({ fd })`. */
export async function requestListener(
  path: string,
  { host, port, ms = 5000 }: { host: string; port: number; ms?: number },
): Promise<{ socket: Fd; host: string; port: number }> {
  const { answer, fd } = await ask(path, { ask: 'listen', host, port }, ms);
  if (!('listening' in answer) || !fd) throw unexpected();
  return { socket: fd, ...answer.listening };
}

export async function doormanStatus(path: string, { ms = 5000 } = {}): Promise<DoormanStatus> {
  const { answer } = await ask(path, { ask: 'status' }, ms);
  if (!('status' in answer)) throw unexpected();
  return answer.status;
}

/** Asks the doorman to end; it has not ended yet when this returns. */
export async function requestShutdown(path: string, { fabric = false, ms = 5000 } = {}): Promise<void> {
  await ask(path, { ask: 'shutdown', fabric }, ms);
}
