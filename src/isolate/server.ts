/**
 * The fork server: `build/isolate --serve`, started before anything else so that forking stays cheap, restarted
 * with a growing pause if it dies. Its standard input is a pipe of ours: when we end, it ends, and with it
 * every run that is not kept.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CarrelError } from '#base/errors.ts';
import { sleep, within } from '#base/deadline.ts';
import { silent, type Logger } from '#base/log.ts';
import { connectSession, type Session } from './session.ts';

/** The binary that the native build makes. */
export const isolateBinary = fileURLToPath(new URL('../../build/isolate', import.meta.url));

const firstPauseMs = 50;
const longestPauseMs = 5000;
const startMs = 5000;
/** How long the news of its death may take to reach us. */
const deathMs = 500;

export interface ForkServer {
  /** The process id of the server that runs now; undefined while it is being restarted. */
  readonly pid: number | undefined;
  readonly socket: string;
  /** A fresh session. Waits for a restart that is under way. */
  openSession(): Promise<Session>;
  close(): Promise<void>;
}

export interface ForkServerOptions {
  /** Where it listens, mode 0600; at most 107 bytes. */
  readonly socket: string;
  readonly binary?: string;
  readonly logger?: Logger;
}

interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<void>;
}

async function launch(binary: string, socket: string, logger: Logger): Promise<Running> {
  const child = spawn(binary, ['--serve', socket], { stdio: ['pipe', 'pipe', 'inherit'], env: {}, cwd: '/' });
  // Not `close`: the keepers of machines outlive the server and have its output open.
  const ended = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', () => resolve());
  });
  child.stdin?.on('error', () => undefined);
  const ready = new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('error', reject);
    child.once('exit', (status) => reject(new Error(`status ${status}`)));
  });
  try {
    await within(startMs, 'the isolation server to start', ready);
  } catch (error) {
    child.kill('SIGKILL');
    throw new CarrelError('helper_failed', `The isolation server did not start: ${binary}`, { cause: error });
  }
  logger.debug('isolation server started', { pid: child.pid, socket });
  return { child, ended };
}

class RestartingServer implements ForkServer {
  readonly socket: string;
  readonly #binary: string;
  readonly #logger: Logger;
  #running: Promise<Running> | undefined;
  #pid: number | undefined;
  #closed = false;
  #pauseMs = firstPauseMs;
  #timer: NodeJS.Timeout | undefined;

  constructor({ socket, binary = isolateBinary, logger = silent }: ForkServerOptions) {
    this.socket = socket;
    this.#binary = binary;
    this.#logger = logger;
  }

  get pid(): number | undefined {
    return this.#pid;
  }

  /** The server that runs, or will: callers share one start. */
  start(): Promise<Running> {
    if (this.#closed)
      return Promise.reject(new CarrelError('unavailable', 'The isolation server has been closed'));
    return (this.#running ??= this.#launch());
  }

  async #launch(): Promise<Running> {
    try {
      const running = await launch(this.#binary, this.socket, this.#logger);
      const began = performance.now();
      this.#pid = running.child.pid;
      void running.ended.then(() => this.#died(performance.now() - began));
      return running;
    } catch (error) {
      this.#running = undefined;
      throw error;
    }
  }

  #died(aliveMs: number): void {
    this.#running = undefined;
    this.#pid = undefined;
    if (this.#closed) return;
    this.#pauseMs = aliveMs > longestPauseMs ? firstPauseMs : Math.min(this.#pauseMs * 2, longestPauseMs);
    this.#logger.warn('isolation server died; it is started again', { pauseMs: this.#pauseMs });
    const again = new Promise<Running>((resolve, reject) => {
      this.#timer = setTimeout(() => void this.#launch().then(resolve, reject), this.#pauseMs);
    });
    again.catch((error: unknown) => {
      this.#running = undefined;
      this.#logger.error('isolation server does not start', { error });
    });
    this.#running = again;
  }

  async #ready(): Promise<Running> {
    return await within(startMs + longestPauseMs, 'the isolation server', this.start());
  }

  async openSession(): Promise<Session> {
    const { ended } = await this.#ready();
    try {
      return await connectSession(this.socket);
    } catch (error) {
      // killed a moment ago, and we have not heard of it yet: then the next one answers
      const died = ended.then(() => true);
      if (!(await Promise.race([died, sleep(deathMs).then(() => false)]))) throw error;
      await this.#ready();
      return await connectSession(this.socket);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    const running = this.#pid === undefined ? undefined : await this.#running;
    if (!running) return;
    running.child.stdin?.end();
    const forced = setTimeout(() => running.child.kill('SIGKILL'), 2000);
    await running.ended;
    clearTimeout(forced);
  }
}

export async function startForkServer(options: ForkServerOptions): Promise<ForkServer> {
  const binary = options.binary ?? isolateBinary;
  if (!existsSync(binary))
    throw new CarrelError('host_unsupported', `${binary} has not been built`, {
      hint: 'build the native parts with: npm run build:native',
    });
  const server = new RestartingServer(options);
  await server.start();
  return server;
}
