/**
 * A run that is watched while it goes on: output as it comes, input, resize, signals, and how it ended. The
 * same whether it was started by this session or attached to on its own socket.
 */
import { within } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { constants } from 'node:os';
import type { Frame } from './frames.ts';
import { parseMessage, planError, type Message, type Report } from './messages.ts';
import type { Operation } from './plan.ts';
import { connectSession, lost, type FrameSink, type Session } from './session.ts';

export interface ExitReport {
  readonly exit: number | null;
  readonly signal: string | null;
  /** A limit (`wall`, `output`), `cancelled`, or `lost`: whoever watched over it was killed. */
  readonly killed: string | null;
  readonly wallMs: number;
  readonly cpuMs: number;
  readonly oomKills: number;
  /** Set if the program could not be executed: 2 (ENOENT), 13 (EACCES), ... */
  readonly execErrno: number;
}

/** With a terminal all output is `stdout`. */
export type OutputListener = (stream: 'stdout' | 'stderr', bytes: Buffer) => void;

export interface Exec {
  readonly pid: number | undefined;
  readonly startTime: string | undefined;
  /** Absolute byte number of the first live byte, if the run is recorded. */
  readonly offset: number;
  /** From now on; what came before the first listener is given to it at once. */
  onOutput(listener: OutputListener): void;
  /** A kept run waits for nobody: output up to byte `offset` was skipped here, and is in the record. */
  onGap(listener: (offset: number) => void): void;
  /** False when it should wait before writing more. */
  write(bytes: Uint8Array): boolean;
  endInput(): void;
  resize(rows: number, columns: number): void;
  signal(name: NodeJS.Signals | number): void;
  /** Kills the program; of a machine's keeper: the machine. */
  kill(): void;
  pause(): void;
  resume(): void;
  readonly ended: Promise<ExitReport>;
  /** Leaves: a run that is not kept dies. */
  close(): void;
}

export function exitReport(report: Report): ExitReport {
  const oom = report.counters.oom;
  return {
    exit: report.exit,
    signal: report.signal,
    killed: report.killed,
    wallMs: report.wall_ms,
    cpuMs: report.cpu_ms,
    oomKills: oom ? oom[1] - oom[0] : 0,
    execErrno: report.exec_errno,
  };
}

/** Output before anybody listens: the start of a program, at most. */
const maxHeld = 1 << 20;

type Started = Extract<Message, { phase: 'kept' | 'attached' }>;

class LiveRun implements Exec {
  readonly ended: Promise<ExitReport>;
  readonly #session: Session;
  readonly #sink: FrameSink;
  #started: Started | undefined;
  #listener: OutputListener | undefined;
  #gap: ((offset: number) => void) | undefined;
  #held: ['stdout' | 'stderr', Buffer][] = [];
  #heldBytes = 0;
  readonly #settle: PromiseWithResolvers<ExitReport>;
  readonly #onStart: PromiseWithResolvers<Started>;
  readonly #onCloned: ((pid: number) => Promise<void>) | undefined;

  constructor(
    session: Session,
    operations: readonly Operation[],
    { onCloned, fds }: Pick<StartOptions, 'onCloned' | 'fds'> = {},
  ) {
    this.#session = session;
    this.#onCloned = onCloned;
    this.#settle = Promise.withResolvers();
    this.#onStart = Promise.withResolvers();
    this.ended = this.#settle.promise;
    // nobody need be waiting for either
    this.ended.catch(() => undefined);
    this.#onStart.promise.catch(() => undefined);
    this.#sink = session.stream(
      operations,
      (frame) => this.#take(frame),
      (error) => this.#fail(error ?? lost()),
      fds,
    );
  }

  /** Resolves when the run is kept, or when the attachment stands. */
  get started(): Promise<Started> {
    return this.#onStart.promise;
  }
  get pid(): number | undefined {
    return this.#started?.pid;
  }
  get startTime(): string | undefined {
    return this.#started?.start_time;
  }
  get offset(): number {
    return this.#started?.offset ?? 0;
  }

  #fail(error: Error): void {
    this.#onStart.reject(error);
    this.#settle.reject(error);
  }

  #take(frame: Frame): void {
    if (frame.kind === 'J') this.#message(parseMessage(frame.payload));
    else this.#output(frame.kind === '2' ? 'stderr' : 'stdout', frame.payload);
  }

  #message(message: Message): void {
    switch (message.phase) {
      case 'kept':
      case 'attached':
        this.#started = message;
        this.#onStart.resolve(message);
        return;
      case 'cloned':
        void this.#plug(message.pid);
        return;
      case 'report':
        this.#settle.resolve(exitReport(message));
        this.#onStart.reject(
          new CarrelError(
            'internal',
            `The program ended before it was under way (error ${message.exec_errno})`,
          ),
        );
        this.#session.close();
        return;
      case 'error':
        this.#fail(planError(message));
        this.#session.close();
        return;
      case 'gap':
        this.#gap?.(message.offset);
        return;
      case 'configured':
      case 'running':
    }
  }

  async #plug(pid: number): Promise<void> {
    try {
      await this.#onCloned?.(pid);
      this.#sink.send('g');
    } catch (error) {
      this.#fail(error instanceof Error ? error : lost(error));
      this.#session.close();
    }
  }

  #output(stream: 'stdout' | 'stderr', bytes: Buffer): void {
    if (this.#listener) return this.#listener(stream, bytes);
    this.#heldBytes += bytes.length;
    this.#held.push([stream, bytes]);
    if (this.#heldBytes < maxHeld) return;
    // a kept run goes on whether we listen or not, and its record has it all; another one waits for a listener
    if (this.#started) this.#held = [];
    else this.#sink.pause();
  }

  onOutput(listener: OutputListener): void {
    this.#listener = listener;
    for (const [stream, bytes] of this.#held.splice(0)) listener(stream, bytes);
    this.#sink.resume();
  }

  onGap(listener: (offset: number) => void): void {
    this.#gap = listener;
  }

  write(bytes: Uint8Array): boolean {
    const piece = 128 << 10;
    let room = true;
    for (let at = 0; at < bytes.length; at += piece)
      room = this.#sink.send('i', bytes.subarray(at, at + piece));
    return room;
  }
  endInput(): void {
    this.#sink.send('e');
  }
  resize(rows: number, columns: number): void {
    this.#sink.send('r', `${rows} ${columns}`);
  }
  signal(name: NodeJS.Signals | number): void {
    this.#sink.send('s', String(typeof name === 'number' ? name : constants.signals[name]));
  }
  kill(): void {
    this.#sink.send('k');
  }
  pause(): void {
    this.#sink.pause();
  }
  resume(): void {
    this.#sink.resume();
  }
  close(): void {
    this.#session.close();
  }
}

export interface StartOptions {
  readonly onCloned?: (pid: number) => Promise<void>;
  /** Wait until the run is kept: from then on it lives without us. */
  readonly kept?: boolean;
  /** Open descriptors that go along with the plan, see `op.descriptor`. They stay the caller's to close. */
  readonly fds?: readonly number[];
}

/** A keeper answers at once, unless it hangs or is frozen together with its machine. */
const attachMs = 5000;
/** How long a kept run may take to be under way. */
const keptMs = 60_000;

async function startedWithin(ms: number, what: string, run: LiveRun): Promise<LiveRun> {
  try {
    await within(ms, what, run.started);
    return run;
  } catch (error) {
    run.close();
    throw error;
  }
}

/** Starts a plan on a session of its own. */
export async function startLive(
  session: Session,
  operations: readonly Operation[],
  { kept = false, ...options }: StartOptions = {},
): Promise<Exec> {
  const run = new LiveRun(session, operations, options);
  return kept ? await startedWithin(keptMs, 'the program to be under way', run) : run;
}

/** Attaches to a kept run: live output from `offset` on, input, resize; readRecord has what was before. */
export async function attach(socket: string): Promise<Exec> {
  const session = await connectSession(socket);
  return await startedWithin(attachMs, `an answer at ${socket}`, new LiveRun(session, []));
}

export interface Collected {
  readonly report: ExitReport;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
}

/** Runs to the end and gathers the output; the plan's output limit bounds it. */
export async function collect(exec: Exec): Promise<Collected> {
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  exec.onOutput((stream, bytes) => void (stream === 'stdout' ? stdout : stderr).push(bytes));
  const report = await exec.ended;
  return { report, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) };
}
