/**
 * One listening socket whose connections go to one port of a machine. Bytes pass in both directions with
 * back-pressure; when one side has said all it has to say, the other may still answer (half-close, tcp(7)).
 */
import { connect, createServer, type Server, type Socket } from 'node:net';
import { CarrelError, messageOf } from '#base/errors.ts';
import type { Fd } from '#host/fds.ts';

export interface RelayOptions {
  /** Listening already, perhaps in another network namespace. The relay owns it from here on. */
  readonly socket: Fd;
  /** Asked for each connection: where the machine is now. Rejects while it cannot be reached. */
  readonly target: () => Promise<{ readonly host: string; readonly port: number }>;
  readonly limits?: Partial<RelayLimits>;
  /** Told why a connection came to nothing. */
  readonly failed?: (reason: string) => void;
}

export interface RelayLimits {
  /** At a time; further ones are ended at once. */
  readonly connections: number;
  /** For finding the machine and for its answer to the first packet. */
  readonly connectMs: number;
  /** Once one side has ended: how long the other may be silent. */
  readonly halfClosedMs: number;
}

export interface Relay {
  readonly connections: number;
  /** Listens no more, and ends what is open. */
  close(): Promise<void>;
}

const defaults: RelayLimits = { connections: 256, connectMs: 10_000, halfClosedMs: 300_000 };
/** A peer that vanished without a word is noticed. */
const KEEP_ALIVE_MS = 60_000;

export async function openRelay({
  socket,
  target,
  limits: some = {},
  failed = () => undefined,
}: RelayOptions): Promise<Relay> {
  const limits = { ...defaults, ...some };
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (outside) => {
    open.add(outside);
    outside.once('close', () => open.delete(outside));
    outside.on('error', () => outside.destroy());
    if (open.size > limits.connections) {
      failed(`more than ${limits.connections} connections at a time`);
      outside.resetAndDestroy();
      return;
    }
    relay(outside, target, limits).catch((error: unknown) => {
      failed(messageOf(error));
      outside.resetAndDestroy(); // what is refused looks refused
    });
  });
  await listenOn(server, socket);
  return {
    get connections() {
      return open.size;
    },
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const one of open) one.destroy();
      await closed;
    },
  };
}

async function listenOn(server: Server, socket: Fd): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new CarrelError('unavailable', `cannot serve a forward: ${cause.message}`, { cause })),
    );
    server.listen({ fd: socket.release() }, resolve);
  });
}

async function relay(
  outside: Socket,
  target: RelayOptions['target'],
  { connectMs, halfClosedMs }: RelayLimits,
): Promise<void> {
  const late = AbortSignal.timeout(connectMs);
  const found = await Promise.race([target(), expiry(late, connectMs)]);
  if (outside.destroyed) return; // he did not wait
  const inside = connect({ ...found, allowHalfOpen: true, noDelay: true });
  const abandon = (): void => void inside.destroy();
  outside.once('close', abandon);
  try {
    await Promise.race([connected(inside), expiry(late, connectMs)]);
  } catch (error) {
    inside.destroy();
    throw error;
  }
  join(outside, inside, halfClosedMs);
}

function expiry(signal: AbortSignal, ms: number): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () =>
      reject(new CarrelError('deadline_exceeded', `the machine did not answer within ${ms} ms`)),
    );
  });
}

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
}

function join(outside: Socket, inside: Socket, halfClosedMs: number): void {
  for (const [from, to] of [
    [outside, inside],
    [inside, outside],
  ] as const) {
    from.setNoDelay(true);
    from.setKeepAlive(true, KEEP_ALIVE_MS);
    from.on('error', () => {
      from.destroy();
      to.destroy();
    });
    from.once('close', (hadError) => {
      if (hadError || !from.readableEnded) to.destroy();
    });
    from.once('end', () => to.setTimeout(halfClosedMs, () => to.destroy()));
    from.pipe(to); // and the end of `from` becomes the end of what `to` receives
  }
}
