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
import { mkdirSync, openSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { until, within } from '#base/deadline.ts';
import { type Logger, silent } from '#base/log.ts';
import { ownFd } from '#host/fds.ts';
import { writeFileAtomicSync } from '#host/files.ts';
import { readLockNote, tryLock } from '#host/flock.ts';
import { type Argv, type Service, launchService } from '#host/launch.ts';
import { type ProcessIdentity, endProcess, isAlive, untilGone } from '#host/processes.ts';
import { formatAddress } from './addresses.ts';
import { type ControlReply, type ControlRequest, type DoormanStatus, serveControl } from './control.ts';
import { type FabricEnvironment, fabricVariable, ownAddresses } from './environment.ts';
import {
  type Endpoint,
  type Listener,
  formatEndpoint,
  isLoopback,
  listenVariable,
  openListener,
} from './listeners.ts';
import { type FabricNamespace, openNamespace } from './namespace.ts';
import { type Supervised, supervise } from './supervisor.ts';
import { resolverAddress, startUplink } from './uplink.ts';

export interface DoormanOptions {
  /** DIR; DIR/run and DIR/log are made if missing. */
  readonly dataDirectory: string;
  /** The sockets to open and what is served there, for example `{ name: 'http', host: '127.0.0.1', port: 7700 }`. */
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

const identitySchema = z.looseObject({ pid: z.int().positive(), startTime: z.string() });

function recordedProcess(path: string): ProcessIdentity | undefined {
  try {
    const parsed = identitySchema.safeParse(JSON.parse(readFileSync(path, 'utf8')));
    return parsed.success && isAlive(parsed.data) ? parsed.data : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Where the control socket of the cloud in DIR is. */
export function controlPath(dataDirectory: string): string {
  return join(dataDirectory, 'run', 'doorman.sock');
}

/** Ends what an earlier doorman, killed before it could, left running outside the machines. */
async function endLeftovers(runDirectory: string, graceMs: number): Promise<void> {
  const daemon = recordedProcess(join(runDirectory, 'daemon.json'));
  if (daemon) {
    // its stdin has ended, so it is shutting down already
    await untilGone(daemon, graceMs).catch(async () => await endProcess(daemon));
  }
  const uplink = recordedProcess(join(runDirectory, 'uplink.json'));
  if (uplink) await endProcess(uplink);
}

/** Starts everything; resolves when the daemon's process exists (not when it answers). */
export async function startDoorman(options: DoormanOptions): Promise<Doorman> {
  const {
    dataDirectory,
    listen,
    argv,
    uplink: uplinkKind = 'pasta',
    graceMs = 15_000,
    log = silent,
  } = options;
  const runDirectory = join(dataDirectory, 'run');
  const logDirectory = join(dataDirectory, 'log');
  for (const directory of [runDirectory, logDirectory])
    mkdirSync(directory, { recursive: true, mode: 0o700 });

  using undo = new DisposableStack();
  const lockPath = join(runDirectory, 'doorman.lock');
  const lock = tryLock(lockPath);
  if (!lock) {
    const pid = readLockNote(lockPath)?.trim();
    throw new CarrelError('wrong_state', `Carrel is running already in ${dataDirectory} (process ${pid})`, {
      hint: 'see: carrel status',
      details: { pid: Number(pid), dataDirectory },
    });
  }
  undo.use(lock);
  await endLeftovers(runDirectory, graceMs);

  const listeners = listen.map((endpoint) => {
    const listener = openListener(endpoint);
    undo.use(listener.socket);
    return { ...listener, name: endpoint.name };
  });
  const namespace = await openNamespace({
    runDirectory,
    ...(options.holder ? { holder: options.holder } : {}),
  });
  log.info(namespace.reentered ? 'fabric entered again' : 'fabric made', { netns: namespace.netns });
  // from here on the namespace does not depend on the holder's life
  const netns = undo.use(ownFd(openSync(`/proc/${namespace.holder.pid}/ns/net`, 'r')));
  const logFd = undo.use(ownFd(openSync(join(logDirectory, 'daemon.log'), 'a', 0o600)));

  const uplink =
    uplinkKind === 'none'
      ? undefined
      : superviseUplink({ namespace, netnsFd: netns.fd, runDirectory, log: log.with({ part: 'uplink' }) });
  const environment: FabricEnvironment = {
    netns: namespace.netns,
    hostAddresses: ownAddresses(),
    resolver: formatAddress(resolverAddress),
    control: controlPath(dataDirectory),
  };
  const daemon = supervise({
    name: 'daemon',
    giveUpAfter: options.giveUpAfter ?? 10,
    log,
    start: async () => {
      const service = await launchService(namespace.inside(argv, netns.fd), {
        stdio: ['pipe', logFd.fd, logFd.fd, ...listeners.map(({ socket }) => socket.fd)],
        env: {
          ...(options.env ?? process.env),
          [listenVariable]: describeListeners(listeners),
          [fabricVariable]: JSON.stringify(environment),
        },
      });
      service.child.stdin?.on('error', () => undefined);
      writeFileAtomicSync(join(runDirectory, 'daemon.json'), JSON.stringify(service.identity));
      return service;
    },
  });

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
  const handle = (request: ControlRequest): ControlReply => {
    switch (request.ask) {
      case 'status':
        return { answer: { status: status() } };
      case 'shutdown':
        void stop({ fabric: request.fabric });
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
  const control = await serveControl({ path: controlPath(dataDirectory), handle }).catch(
    async (error: unknown) => {
      await daemon.stop(async (service) => await shutDown(service, graceMs));
      await uplink?.stop(async (service) => await service.stop());
      if ((await settle(namespace, 1000)).length === 0) await namespace.end();
      throw error;
    },
  );
  const resources = undo.move();

  let ending: Promise<DoormanEnd> | undefined;
  const end = async (fabric: boolean): Promise<DoormanEnd> => {
    log.info('shutting down');
    await control.close();
    await daemon.stop(async (service) => await shutDown(service, graceMs));
    rmSync(join(runDirectory, 'daemon.json'), { force: true });
    await uplink?.stop(async (service) => await service.stop());
    rmSync(join(runDirectory, 'uplink.json'), { force: true });
    const inhabitants = await settle(namespace, fabric ? 5000 : 1000);
    if (inhabitants.length === 0) await namespace.end();
    else log.info('machines go on', { inhabitants });
    resources.dispose();
    return { fabricEnded: inhabitants.length === 0, inhabitants };
  };
  const stop = async ({ fabric = false }: { fabric?: boolean } = {}): Promise<DoormanEnd> => {
    ending ??= end(fabric);
    return await ending;
  };
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

function describeListeners(listeners: readonly (Listener & { name: string })[]): string {
  return JSON.stringify(
    listeners.map(({ name, host, port }, index) => ({ fd: 3 + index, name, host, port })),
  );
}

/** A further listening socket: on the loopback, or on an address the cloud was opened to. */
function openFurther({ host, port }: Endpoint, open: readonly Endpoint[]): Listener {
  if (!isLoopback(host) && !open.some((endpoint) => endpoint.host === host))
    throw new CarrelError('forbidden', `Carrel was not opened to ${formatEndpoint({ host, port })}`, {
      hint: `start it with: carrel up --listen ${formatEndpoint({ host, port: 7700 })}`,
    });
  return openListener({ host, port });
}

function superviseUplink({
  namespace,
  netnsFd,
  runDirectory,
  log,
}: {
  namespace: FabricNamespace;
  netnsFd: number;
  runDirectory: string;
  log: Logger;
}): Supervised {
  return supervise({
    name: 'uplink',
    firstMs: 500,
    maxMs: 60_000,
    log,
    start: async () => {
      const service = await startUplink(namespace, netnsFd);
      writeFileAtomicSync(join(runDirectory, 'uplink.json'), JSON.stringify(service.identity));
      return service;
    },
  });
}

/** The end of its stdin asks; a daemon that does not listen is ended. */
async function shutDown(service: Service, graceMs: number): Promise<void> {
  service.child.stdin?.end();
  try {
    await within(graceMs, 'the daemon to shut down', service.exited);
  } catch {
    await service.stop();
  }
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
  const stop = (): void => void doorman.stop();
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
