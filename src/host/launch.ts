/**
 * The one place that starts other programs from Node: argument arrays, own process group, limits on time and
 * output, and an end for every child. A short helper is `launch`; a child that stays is `launchService`.
 */
import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { basename } from 'node:path';
import type { Readable } from 'node:stream';
import { CarrelError, errnoOf, messageOf } from '#base/errors.ts';
import { within } from '#base/deadline.ts';
import { type ProcessIdentity, identify } from './processes.ts';

export type Argv = readonly [program: string, ...args: string[]];

export interface Exit {
  /** Exit status, or null when a signal ended it. */
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface LaunchResult extends Exit {
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** More came than `maxOutputBytes`; the rest was read and thrown away. */
  readonly truncated: boolean;
  readonly timedOut: boolean;
  readonly ms: number;
}

export interface LaunchOptions {
  readonly input?: string | Uint8Array;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly uid?: number;
  readonly gid?: number;
  /** Wall clock limit; then SIGTERM, and SIGKILL after `graceMs`. */
  readonly timeoutMs?: number;
  readonly graceMs?: number;
  /** Limit for each of stdout and stderr. */
  readonly maxOutputBytes?: number;
  readonly signal?: AbortSignal;
}

/** How long pipes may stay open after the program itself has ended (a grandchild may hold them). */
const DRAIN_MS = 500;

/** Sends a signal to the whole group of a child started here; false if none is left. */
function signalGroup(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(-pid, signal);
  } catch (error) {
    // EPERM: all that is left of it has become somebody else
    if (errnoOf(error) === 'ESRCH' || errnoOf(error) === 'EPERM') return false;
    throw error;
  }
}

function cannotStart(argv: Argv, cause: unknown): CarrelError {
  const missing = errnoOf(cause) === 'ENOENT';
  return new CarrelError('helper_failed', `${argv[0]} could not be started: ${messageOf(cause)}`, {
    ...(missing
      ? { hint: `install the package that provides ${basename(argv[0])}; see: carrel doctor` }
      : {}),
    details: { argv: [...argv] },
    cause,
  });
}

function start(argv: Argv, options: LaunchOptions, stdio: StdioOptions): ChildProcess {
  const [program, ...args] = argv;
  return spawn(program, args, {
    stdio,
    detached: true, // its own session and process group: one kill reaches all, ^C at the terminal does not
    ...(options.env ? { env: options.env } : {}),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
  });
}

function collect(stream: Readable | null, limit: number): { chunks: Buffer[]; over: () => boolean } {
  const chunks: Buffer[] = [];
  let left = limit;
  let over = false;
  stream?.on('error', () => undefined);
  stream?.on('data', (chunk: Buffer) => {
    if (chunk.length > left) over = true;
    if (left > 0) chunks.push(chunk.subarray(0, left));
    left -= Math.min(left, chunk.length);
  });
  return { chunks, over: () => over };
}

/**
 * Runs a helper to its end and returns what happened as a value: a status other than 0 is no error here.
 * Throws `helper_failed` if it cannot be started, and the signal's reason if it was aborted.
 */
export async function launch(argv: Argv, options: LaunchOptions = {}): Promise<LaunchResult> {
  const { input, timeoutMs = 10_000, graceMs = 500, maxOutputBytes = 2 ** 20, signal } = options;
  signal?.throwIfAborted();
  const began = performance.now();
  const child = start(argv, options, [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe']);
  const stdout = collect(child.stdout, maxOutputBytes);
  const stderr = collect(child.stderr, maxOutputBytes);
  child.stdin?.on('error', () => undefined); // it may end without reading: its status tells
  if (input !== undefined) child.stdin?.end(input);
  let timedOut = false;
  const timers: NodeJS.Timeout[] = [];
  const end = (): void => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const { pid } = child;
    signalGroup(pid, 'SIGTERM');
    timers.push(setTimeout(() => signalGroup(pid, 'SIGKILL'), graceMs));
  };
  timers.push(
    setTimeout(() => {
      timedOut = true;
      end();
    }, timeoutMs),
  );
  signal?.addEventListener('abort', end, { once: true });
  try {
    const exit = await new Promise<Exit>((resolve, reject) => {
      child.once('error', (error) => reject(cannotStart(argv, error)));
      child.once('close', (status, by) => resolve({ status, signal: by }));
      child.once('exit', () => {
        // 'close' waits for the pipes as well: end whoever still holds them
        timers.push(
          setTimeout(() => {
            if (child.pid !== undefined) signalGroup(child.pid, 'SIGKILL');
            child.stdout?.destroy();
            child.stderr?.destroy();
          }, DRAIN_MS),
        );
      });
    });
    signal?.throwIfAborted();
    return {
      ...exit,
      stdout: Buffer.concat(stdout.chunks),
      stderr: Buffer.concat(stderr.chunks),
      truncated: stdout.over() || stderr.over(),
      timedOut,
      ms: performance.now() - began,
    };
  } finally {
    for (const timer of timers) clearTimeout(timer);
    signal?.removeEventListener('abort', end);
  }
}

/** Like `launch`, but anything other than status 0 is a `helper_failed` with the end of its standard error. */
export async function launchOk(argv: Argv, options: LaunchOptions = {}): Promise<LaunchResult> {
  const result = await launch(argv, options);
  if (result.status === 0 && !result.timedOut) return result;
  const name = basename(argv[0]);
  const how = result.timedOut
    ? `did not end in ${options.timeoutMs ?? 10_000} ms`
    : result.signal === null
      ? `ended with status ${result.status}`
      : `was ended by ${result.signal}`;
  const said = result.stderr.toString('utf8').trim().slice(-2000);
  throw new CarrelError('helper_failed', `${name} ${how}${said === '' ? '' : `: ${said}`}`, {
    details: { argv: [...argv], status: result.status, signal: result.signal, timedOut: result.timedOut },
  });
}

/** Drains a stream for as long as it lives; the function gives its last 1000 characters, at the end of the stream. */
function keepTail(stream: Readable | null): () => Promise<string> {
  let tail = '';
  stream?.setEncoding('utf8');
  stream?.on('data', (chunk: string) => {
    tail = (tail + chunk).slice(-1000);
  });
  const closed = new Promise<void>((resolve) => {
    if (stream) stream.once('close', resolve);
    else resolve();
  });
  return async () => {
    await within(DRAIN_MS, 'standard error to close', closed).catch(() => undefined);
    return tail.trim();
  };
}

export interface ServiceOptions extends Pick<LaunchOptions, 'env' | 'cwd' | 'uid' | 'gid'> {
  /** As for node:child_process; default: no input, no output. Plain numbers are descriptors to inherit. */
  readonly stdio?: StdioOptions;
  /** Resolves when the child can be used; a rejection ends it. Default: as soon as it exists. */
  readonly ready?: (service: Service) => Promise<unknown>;
  readonly readyMs?: number;
  /** With standard error as a pipe: it is drained always, and its end goes into the error if `ready` fails. */
  readonly explain?: boolean;
  /** May outlive us without keeping us waiting (a keeper, a namespace holder). */
  readonly outlives?: boolean;
}

/** A child that stays. */
export interface Service {
  readonly argv: Argv;
  readonly identity: ProcessIdentity;
  readonly child: ChildProcess;
  /** Resolves when it has ended, for whatever reason; never rejects. */
  readonly exited: Promise<Exit>;
  /** SIGTERM to its group, SIGKILL after `graceMs`; resolves when it has ended. */
  stop(options?: { graceMs?: number }): Promise<Exit>;
}

/** Starts a child that stays; resolves when `ready` does. If it ends or is late before, it is ended and this throws. */
export async function launchService(argv: Argv, options: ServiceOptions = {}): Promise<Service> {
  const { stdio = 'ignore', ready, readyMs = 10_000, outlives = false, explain = false } = options;
  const child = start(argv, options, stdio);
  const failed = new Promise<never>((_, reject) => {
    child.once('error', (error) => reject(cannotStart(argv, error)));
  });
  failed.catch(() => undefined);
  if (child.pid === undefined) return await failed;
  const { pid } = child;
  const exited = new Promise<Exit>((resolve) => {
    child.once('exit', (status, signal) => resolve({ status, signal }));
  });
  // Node has not reaped it before this turn of the event loop ends, so the entry is there, if as a zombie.
  const identity = identify(pid) ?? { pid, startTime: '0' };
  if (outlives) child.unref();
  const tail = explain ? keepTail(child.stderr) : undefined;
  const service: Service = {
    argv,
    identity,
    child,
    exited,
    async stop({ graceMs = 2000 } = {}) {
      if (child.exitCode === null && child.signalCode === null) signalGroup(pid, 'SIGTERM');
      const timer = setTimeout(() => signalGroup(pid, 'SIGKILL'), graceMs);
      try {
        return await within(graceMs + 5000, `${basename(argv[0])} to end`, exited);
      } finally {
        clearTimeout(timer);
      }
    },
  };
  if (!ready) return service;
  try {
    const early = exited.then(async ({ status, signal }) => {
      const said = await tail?.();
      throw new CarrelError(
        'helper_failed',
        `${basename(argv[0])} ended (${signal ?? `status ${status}`}) before it was ready${said ? `: ${said}` : ''}`,
        { details: { argv: [...argv], status, signal } },
      );
    });
    early.catch(() => undefined);
    await within(readyMs, `${basename(argv[0])} to be ready`, Promise.race([ready(service), early, failed]));
    return service;
  } catch (error) {
    await service.stop({ graceMs: 0 });
    throw error;
  }
}
