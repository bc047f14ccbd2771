/**
 * The doorman: the part of Carrel that stays outside, in the host's network namespace.
 *
 *   host namespace                      fabric namespace
 *   doorman ── listening sockets ─────> daemon (inherits them, serves there)
 *      │ ├──── stdin pipe ────────────> its end means: shut down
 *      │ └──── holder ────────────────> keeps the namespace while nobody else is in it
 *      └────── pasta ─────────────────> uplink0, the way out
 *
 * It opens what must be opened outside, starts the daemon, starts it again when it dies, and gives it further
 * listening sockets on request. It holds no state: after kill -9 of the doorman the daemon sees the end of its
 * stdin and ends too, the machines go on in the fabric, and the next doorman enters it again.
 */
import { mkdirSync, openSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { type Logger, silent } from '#base/log.ts';
import { ownFd } from '#host/fds.ts';
import { type FileLock, readLockNote, tryLock } from '#host/flock.ts';
import type { Argv } from '#host/launch.ts';
import { identify } from '#host/processes.ts';
import {
  controlPath,
  endLeftovers,
  openLog,
  shutDown,
  superviseDaemon,
  superviseUplink,
} from './children.ts';
import { type ControlReply, type ControlRequest, type DoormanStatus, serveControl } from './control.ts';
import { type Endpoint, type Listener, formatEndpoint, isLoopback, openListener } from './listeners.ts';
import { type FabricNamespace, openNamespace } from './namespace.ts';

export { controlPath } from './children.ts';

export interface DoormanOptions {
  /** DIR; DIR/run and DIR/log are made if missing. */
  readonly dataDirectory: string;
  /** The sockets to open and what is served there, for example `{ name: 'http', host: '127.0.0.1', port: 7070 }`. */
  readonly listen: readonly (Endpoint & { readonly name: string })[];
  /** The daemon's command. It is started inside the fabric. */
  readonly argv: Argv;
  readonly env?: NodeJS.ProcessEnv;
  readonly uplink?: 'pasta' | 'none';
  /** A program of our own that holds the namespace (default: util-linux and coreutils). */
  readonly holder?: Argv;
  /** How long the daemon may take to shut down. */
  readonly graceMs?: number;
  /** After this many early deaths in a row the doorman gives up. */
  readonly giveUpAfter?: number;
  readonly log?: Logger;
}

export interface DoormanEnd {
  /** The fabric's namespace is gone. */
  readonly fabricEnded: boolean;
  /** Processes left in the fabric: machines that go on. */
  readonly inhabitants: readonly number[];
}

export interface Doorman {
  readonly status: DoormanStatus;
  /** Resolves when everything is down; rejects if the daemon cannot be kept running. */
  readonly ended: Promise<DoormanEnd>;
  /** Daemon, uplink, then the namespace: always with `fabric`, else if no machine is left in it. */
  stop(options?: { fabric?: boolean }): Promise<DoormanEnd>;
}

/**
 * One doorman per data directory. The lock of one that was killed is free when the kernel has ended it wholly,
 * which is after it is seen to be dead: that is waited for.
 */
async function lockFor(dataDirectory: string): Promise<FileLock> {
  const path = join(dataDirectory, 'run', 'doorman.lock');
  const pid = (): number => Number(readLockNote(path)?.trim());
  const dying = (): boolean => Number.isInteger(pid()) && identify(pid()) === undefined;
  const attempt = (): FileLock | false | undefined => tryLock(path) ?? (dying() ? undefined : false);
  const lock = await until(5000, `the lock of a dead doorman in ${dataDirectory}`, attempt);
  if (lock) return lock;
  throw new CarrelError('wrong_state', `Carrel is running already in ${dataDirectory} (process ${pid()})`, {
    hint: 'see: carrel status',
    details: { pid: pid(), dataDirectory },
  });
}

/** Starts everything; resolves when the daemon's process exists (not when it answers). */
export async function startDoorman(options: DoormanOptions): Promise<Doorman> {
  const { dataDirectory, listen, graceMs = 15_000, log = silent } = options;
  const runDirectory = join(dataDirectory, 'run');
  const logDirectory = join(dataDirectory, 'log');
  for (const directory of [runDirectory, logDirectory])
    mkdirSync(directory, { recursive: true, mode: 0o700 });

  await using undo = new AsyncDisposableStack();
  undo.use(await lockFor(dataDirectory));
  await endLeftovers(runDirectory, graceMs);
  const listeners = listen.map((endpoint) => {
    const listener = openListener(endpoint);
    undo.use(listener.socket);
    return { ...listener, name: endpoint.name };
  });
  const logFd = undo.use(openLog(logDirectory));

  const namespace = await openNamespace({
    runDirectory,
    ...(options.holder ? { holder: options.holder } : {}),
  });
  let inhabitants: number[] = [];
  let settleMs = 1000;
  undo.defer(async () => {
    inhabitants = await settle(namespace, settleMs);
    if (inhabitants.length === 0) await namespace.end();
    else log.info('machines go on', { inhabitants });
  });
  log.info(namespace.reentered ? 'fabric entered again' : 'fabric made', { netns: namespace.netns });
  // from here on the namespace does not depend on the holder's life
  const netns = undo.use(ownFd(openSync(`/proc/${namespace.holder.pid}/ns/net`, 'r')));

  const uplink =
    options.uplink === 'none'
      ? undefined
      : superviseUplink({ namespace, netnsFd: netns.fd, runDirectory, log: log.with({ part: 'uplink' }) });
  undo.defer(async () => await uplink?.stop(async (service) => await service.stop()));

  const daemon = superviseDaemon({
    dataDirectory,
    argv: options.argv,
    env: options.env ?? process.env,
    giveUpAfter: options.giveUpAfter ?? 10,
    namespace,
    netnsFd: netns.fd,
    logFd: logFd.fd,
    listeners,
    log,
  });
  undo.defer(async () => await daemon.stop(async (service) => await shutDown(service, graceMs)));

  const status = (): DoormanStatus => ({
    pid: process.pid,
    daemonPid: daemon.current?.identity.pid ?? null,
    daemonRestarts: daemon.restarts,
    listeners: listeners.map(({ name, host, port }) => ({ name, host, port })),
    netns: namespace.netns,
    uplink: {
      up: uplink?.current !== undefined,
      reason: uplink ? (uplink.reason ?? null) : 'switched off',
    },
  });
  let ending: Promise<DoormanEnd> | undefined;
  const stop = async ({ fabric = false }: { fabric?: boolean } = {}): Promise<DoormanEnd> => {
    ending ??= (async () => {
      log.info('shutting down');
      if (fabric) settleMs = 5000;
      await resources.disposeAsync();
      return { fabricEnded: inhabitants.length === 0, inhabitants };
    })();
    return await ending;
  };
  const handle = (request: ControlRequest): ControlReply => {
    switch (request.ask) {
      case 'status':
        return { answer: { status: status() } };
      case 'shutdown':
        stop({ fabric: request.fabric }).catch(() => undefined); // `ended` tells
        return { answer: { stopping: true } };
      case 'listen': {
        const { socket, host, port } = openFurther(request, listen);
        return { answer: { listening: { host, port } }, fd: socket };
      }
      default:
        request satisfies never;
        throw new CarrelError('invalid_request', 'unknown question');
    }
  };
  const control = await serveControl({ path: controlPath(dataDirectory), handle });
  undo.defer(async () => await control.close());
  const resources = undo.move();

  const ended = daemon.ended.then(
    async () => await stop(),
    async (error: unknown) => {
      await stop();
      throw error;
    },
  );
  ended.catch(() => undefined);
  await Promise.all([daemon.attempted, uplink?.attempted]);
  return {
    get status() {
      return status();
    },
    ended,
    stop,
  };
}

/** ip(7): ports below are privileged. */
const firstFreePort = 1024;

/**
 * A further listening socket: on the loopback, or on an address the cloud was opened to. The doorman keeps nothing of
 * it: the port is free again when whoever asked closes the descriptor or ends. Well-known ports are the host's own
 * services': they are given at the start (`--listen`), by whoever starts the cloud, and never on request.
 */
function openFurther({ host, port }: Endpoint, open: readonly Endpoint[]): Listener {
  if (port > 0 && port < firstFreePort)
    throw new CarrelError('forbidden', `Port ${port} is one of the host's own: it is not given on request`, {
      hint: `choose a port from ${firstFreePort} on`,
    });
  const everywhere = isIPv6(host) ? '::' : '0.0.0.0';
  if (!isLoopback(host) && !open.some((endpoint) => endpoint.host === host || endpoint.host === everywhere))
    throw new CarrelError('forbidden', `Carrel was not opened to ${formatEndpoint({ host, port })}`, {
      hint: `start it with: carrel up --listen ${formatEndpoint({ host, port: 7070 })}`,
    });
  return openListener({ host, port });
}

/** Who is in the fabric after `ms`, or as soon as nobody is: children of the daemon may need a moment. */
async function settle(namespace: FabricNamespace, ms: number): Promise<number[]> {
  try {
    await until(ms, 'the fabric to empty', () => (namespace.inhabitants().length === 0 ? true : undefined), {
      everyMs: 20,
    });
    return [];
  } catch {
    return namespace.inhabitants();
  }
}

/** Starts the doorman and stays until SIGTERM, SIGINT, a request to shut down, or the abort of `signal`. */
export async function runDoorman(
  options: DoormanOptions & { onStarted?: (doorman: Doorman) => void; signal?: AbortSignal },
): Promise<DoormanEnd> {
  const doorman = await startDoorman(options);
  const stop = (): void => void doorman.stop().catch(() => undefined); // `ended` tells
  const signals = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;
  for (const signal of signals) process.on(signal, stop);
  options.signal?.addEventListener('abort', stop, { once: true });
  if (options.signal?.aborted) stop();
  try {
    options.onStarted?.(doorman);
    return await doorman.ended;
  } finally {
    for (const signal of signals) process.off(signal, stop);
    options.signal?.removeEventListener('abort', stop);
  }
}
