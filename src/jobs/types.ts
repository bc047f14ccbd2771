/**
 * Durable work. A job is a row first and a running function second.
 *
 *                      enqueue
 *                         |
 *                         v   taken (attempt + 1, lease)
 *      cancelled <----- queued --------------------------> running
 *                         ^                                  |  |
 *                         |  error worth repeating           |  +--> done       (result)
 *                         |  lease expired: worker died      |  +--> failed     (error)
 *                         +--  shutdown of the worker  ------+  +--> cancelled  (asked for, and given in to)
 *
 * - done, failed and cancelled are final; a row never leaves them.
 * - A running job belongs to (owner, attempt). The lease is renewed by heartbeat; a worker that stops renewing has
 *   lost the job, and nothing it writes afterwards counts: every write names owner and attempt.
 * - Errors worth repeating are those of the infrastructure (`retriableCodes`), up to `max_attempts` with growing
 *   pauses. Every other error is final at once.
 * - A dead worker is not the job's fault and is not counted in `max_attempts`; but a job that loses
 *   `lossLimit` workers probably kills them, and fails with an infrastructure error.
 * - A handler can run more than once, so it must be able to: look first, then do. `checkpoint` remembers.
 */
import { CarrelError, messageOf, type ErrorCode } from '#base/errors.ts';
import type { Job, StoredError } from '#store/jobs.ts';
import type { z } from 'zod';

export const queuedChannel = 'carrel_jobs_queued';
export const endedChannel = 'carrel_jobs_ended';
export const cancelChannel = 'carrel_jobs_cancel';

/** Workers that may die over one job before it is given up. */
export const lossLimit = 10;
export const defaultMaxAttempts = 5;

const retriableCodes: ReadonlySet<ErrorCode> = new Set([
  'helper_failed',
  'unavailable',
  'machine_lost',
  'disk_full',
  'no_capacity',
]);

/** Is this an error of the infrastructure, which another attempt may not meet? */
export function isRetriable(code: ErrorCode): boolean {
  return retriableCodes.has(code);
}

/** What a handler gets. */
export interface JobContext {
  /** The row as it was when taken; `job.checkpoint` is what the last attempt saved. */
  readonly job: Job;
  /** Aborts when the job is cancelled, its lease is lost, or the worker shuts down; the reason says which. */
  readonly signal: AbortSignal;
  /** Adds a line to the job's log; written within a second. Long lines and long logs are cut. */
  readonly log: (line: string) => void;
  /** Shown with the job, for example `progress(3, 50, 'submissions')`. */
  readonly progress: (done: number, total: number, what: string) => void;
  /** Names the step that begins now. */
  readonly step: (name: string) => void;
  /** Saves data for a later attempt; when it resolves, it is durable. Throws if the lease is lost. */
  readonly checkpoint: (data: unknown) => Promise<void>;
}

/** A kind of job without its handler: enough to enqueue it. */
export interface JobKind<Args extends z.ZodType = z.ZodType, Result extends z.ZodType = z.ZodType> {
  /** `machine.start`: noun, dot, verb. */
  readonly kind: string;
  readonly args: Args;
  readonly result: Result;
  /** Attempts that may end in an infrastructure error. */
  readonly maxAttempts?: number;
}

/** A kind with its handler: what a worker is made of. */
export interface RunnableJob {
  readonly kind: string;
  execute(context: JobContext): Promise<unknown>;
}

export type DefinedJob<Args extends z.ZodType, Result extends z.ZodType> = JobKind<Args, Result> &
  RunnableJob;

/**
 * Describes a kind of job together with its handler. Arguments are parsed when the job is taken (a row may be
 * older than the program), the result before it is stored.
 *
 * @example
 * const build = defineJob({
 *   kind: 'image.build',
 *   args: z.strictObject({ name: z.string() }),
 *   result: z.strictObject({ hash: z.string() }),
 *   async run({ signal, step }, { name }) { step('unpack'); return buildImage(name, { signal }); },
 * });
 */
export function defineJob<Args extends z.ZodType, Result extends z.ZodType>({
  run,
  ...kind
}: JobKind<Args, Result> & {
  readonly run: (context: JobContext, args: z.output<Args>) => Promise<z.input<Result>>;
}): DefinedJob<Args, Result> {
  return {
    ...kind,
    async execute(context) {
      const args = kind.args.safeParse(context.job.args);
      if (!args.success)
        throw new CarrelError('internal', `job ${context.job.id}: ${kind.kind} cannot read its arguments`, {
          details: { issues: args.error.issues },
        });
      const result = await run(context, args.data);
      // Stored as given; parsed here so that what comes out later is known to fit.
      kind.result.parse(result);
      return result;
    },
  };
}

/** The error as it is stored with the job. */
export function storedError(error: unknown): StoredError {
  if (!(error instanceof CarrelError)) return { code: 'internal', message: messageOf(error) };
  return {
    code: error.code,
    message: error.message,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...(error.details === undefined ? {} : { details: error.details }),
  };
}

/** The stored error as one that can be thrown. */
export function revivedError({ code, message, hint, details }: StoredError): CarrelError {
  return new CarrelError(code, message, {
    ...(hint === undefined ? {} : { hint }),
    ...(details === undefined ? {} : { details }),
  });
}
