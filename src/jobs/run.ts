/** One run of one job inside a worker: its context, its notes, and how it ended. */
import { CarrelError } from '#base/errors.ts';
import { jsonText } from '#store/columns.ts';
import type { Job, JobProgress, JobStep, StoredError } from '#store/jobs.ts';
import type { Lease, Notes, Outcome } from './lease.ts';
import { isRetriable, storedError, type JobContext, type RunnableJob } from './types.ts';

/** A log is for people: this many lines of this length, so that no job fills the database. */
const maxLines = 2000;
const maxLineLength = 4000;
const maxSteps = 200;

const firstPauseMs = 200;
const longestPauseMs = 30_000;

/** Why a run was told to stop; decides what becomes of the job. */
export type StopReason = 'cancelled' | 'lost' | 'shutdown';

const stopSentences: Readonly<Record<StopReason, string>> = {
  cancelled: 'the job was cancelled',
  lost: 'the lease on the job was lost: another worker has it',
  shutdown: 'the worker is shutting down',
};

export interface Run {
  readonly lease: Lease;
  readonly stopped: StopReason | undefined;
  stop(reason: StopReason): void;
  /** What was noted since the last call; undefined if nothing was. */
  takeNotes(): Notes | undefined;
  /** Runs the handler; never throws. */
  execute(): Promise<Outcome>;
}

export function createRun({
  job,
  definition,
  checkpoint,
}: {
  readonly job: Job;
  readonly definition: RunnableJob;
  readonly checkpoint: (lease: Lease, data: unknown) => Promise<boolean>;
}): Run {
  const lease: Lease = { id: job.id, attempt: job.attempt };
  const controller = new AbortController();
  let stopped: StopReason | undefined;
  let steps: JobStep[] = [];
  let progress: JobProgress | undefined;
  let lines: { at: Date; line: string }[] = [];
  let lineCount = 0;
  let stepCount = 0;

  const stop = (reason: StopReason): void => {
    if (stopped !== undefined) return;
    stopped = reason;
    const code = reason === 'cancelled' ? 'cancelled' : 'unavailable';
    controller.abort(new CarrelError(code, stopSentences[reason]));
  };

  const note = (line: string): void => {
    lineCount += 1;
    if (lineCount > maxLines) return;
    lines.push({ at: new Date(), line: lineCount === maxLines ? 'further lines are not kept' : clean(line) });
  };

  const context: JobContext = {
    job,
    signal: controller.signal,
    log: note,
    progress: (done, total, what) => {
      progress = { done, total, what };
    },
    step: (name) => {
      stepCount += 1;
      if (stepCount <= maxSteps) steps.push({ name: clean(name), at: new Date().toISOString() });
    },
    async checkpoint(data) {
      controller.signal.throwIfAborted();
      if (await checkpoint(lease, data)) return;
      stop('lost');
      controller.signal.throwIfAborted();
    },
  };

  return {
    lease,
    get stopped() {
      return stopped;
    },
    stop,
    takeNotes() {
      if (steps.length === 0 && lines.length === 0 && progress === undefined) return undefined;
      const notes = { lease, steps, progress, lines };
      steps = [];
      lines = [];
      progress = undefined;
      return notes;
    },
    async execute() {
      try {
        return { state: 'done', result: jsonText(await definition.execute(context)) };
      } catch (error) {
        return outcomeOf(error, job, stopped);
      }
    },
  };
}

/** Text that the database takes, cut to a line. */
function clean(text: string): string {
  return text.slice(0, maxLineLength).toWellFormed().replaceAll('\0', '\uFFFD');
}

/** What becomes of a job whose handler threw. */
function outcomeOf(thrown: unknown, job: Job, stopped: StopReason | undefined): Outcome {
  const error = writable(storedError(thrown));
  if (stopped === 'cancelled') return { state: 'cancelled', error };
  if (stopped !== undefined) return { state: 'queued', error, delayMs: 0, counts: false };
  if (isRetriable(error.code) && job.failures + 1 < job.max_attempts)
    return { state: 'queued', error, delayMs: pauseAfter(job.failures), counts: true };
  return { state: 'failed', error };
}

/** Without its details if those cannot be written as JSON (a bigint, a circle). */
function writable(error: StoredError): StoredError {
  try {
    jsonText(error);
    return error;
  } catch {
    return { code: error.code, message: error.message };
  }
}

/** Doubles with every failure; the random part keeps jobs that failed together from coming back together. */
function pauseAfter(failures: number): number {
  return Math.min(firstPauseMs * 2 ** failures, longestPauseMs) * (0.75 + Math.random() / 2);
}
