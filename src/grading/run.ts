/**
 * Grades one submission.
 *
 *     files -> build (once) -> [fresh machine -> start steps] -> checks -> points
 *
 * A check whose needs have not passed is skipped. A check without a verdict is an error of the author: it gives
 * no points, keeps the others' results, and makes the grade an `error`. A fault of the host is thrown, whatever
 * had been found by then, so that the job is tried again and no one gets a zero for it.
 */
import { mkdtemp } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import type { CheckResult } from '#contract/schemas/labs.ts';
import { removeTree } from '#host/trees.ts';
import type { Image } from '#images/layout.ts';
import { buildSubmission } from './build.ts';
import { checkCall } from './checks/call.ts';
import { checkAnswers } from './checks/guest/answers.ts';
import { checkGuest } from './checks/guest/guest.ts';
import { checkObserve, observerOf } from './checks/observe/observe.ts';
import type { Observer } from './checks/observe/observer.ts';
import { checkRun } from './checks/run.ts';
import type { CheckContext } from './context.ts';
import type { LabFolder } from './format/folder.ts';
import type { Check, LabDefinition } from './format/lab.ts';
import { sumPoints } from './format/points.ts';
import { listFiles } from './format/tree.ts';
import { type Outcome, type Verdict, noVerdict } from './judge/outcome.ts';
import type { RegexGuard } from './judge/regex.ts';
import type { WithFreshMachine } from './machine.ts';
import { resultOf, shownOutput, skippedBecause } from './result.ts';
import { inOrder } from './schedule.ts';
import { startMachine } from './start.ts';

/** What grading needs of the host; opened once, used for many submissions. */
export interface GraderDeps {
  readonly sandboxes: CheckContext['sandboxes'];
  /** The image of a lab; see image.ts. */
  readonly imageOf: (lab: LabDefinition) => Promise<Image>;
  /** Only machine labs need it. */
  readonly withFreshMachine?: WithFreshMachine;
  readonly guard: RegexGuard;
  /** Where a private directory per submission is made, and removed again. */
  readonly scratch?: string;
}

export interface GradeRequest {
  readonly folder: LabFolder;
  /** A directory with the submitted files; only read. */
  readonly submission: string;
  readonly submissionId: string;
  readonly signal?: AbortSignal;
  /**
   * Checks of this submission that may run at the same time, one per processor unless given; the sandboxes have
   * a limit of their own for all submissions. A machine's checks run one after the other.
   */
  readonly parallel?: number;
  readonly onProgress?: (progress: GradeProgress) => void;
}

export interface GradeProgress {
  readonly done: number;
  readonly total: number;
  readonly result: CheckResult;
}

export interface GradeResult {
  /** `error`: at least one check has no verdict. */
  readonly state: 'graded' | 'error';
  readonly rawPoints: number;
  readonly maxPoints: number;
  readonly checks: readonly CheckResult[];
  /** How each check ended, more precisely than its state. */
  readonly verdicts: ReadonlyMap<string, Verdict>;
}

/** More than any lab may ask for, so that a broken store cannot fill memory. */
const submissionLimits = { files: 1000, bytes: 16 * 2 ** 20, depth: 32 };

/** The image and the build: what the author got wrong about them leaves every check without a verdict. */
async function prepare(
  request: Omit<CheckContext, 'root' | 'built'>,
  imageOf: GraderDeps['imageOf'],
): Promise<{ context: CheckContext; whole: Outcome | undefined }> {
  const context = { ...request, root: '/nonexistent', built: [] };
  try {
    const image = await imageOf(request.folder.lab);
    // nothing runs in a sandbox of a disk
    if (image.kind === 'disk') return { context, whole: undefined };
    const root = image.path;
    const built = await buildSubmission({ ...context, root });
    if ('failure' in built) return { context: { ...context, root }, whole: built.failure };
    return { context: { ...context, root, built: built.files }, whole: undefined };
  } catch (error) {
    if (!isCarrelError(error, 'lab_invalid') && !isCarrelError(error, 'not_found')) throw error;
    return { context, whole: noVerdict(error.message) };
  }
}

/** One check; what the author got wrong is its outcome. */
async function outcomeOf(
  context: CheckContext,
  check: Check,
  observer: Observer | undefined,
): Promise<Outcome> {
  const reveal = check.visibility === 'visible';
  const { what, limits } = check;
  try {
    if (what.kind === 'run') return await checkRun(context, what.run, limits, reveal);
    if (what.kind === 'call') return await checkCall(context, what.call, limits, reveal);
    if (what.kind === 'guest') return await checkGuest(context, what.guest, limits, reveal);
    if (what.kind === 'answers') return await checkAnswers(context, what.answers, limits);
    if (!observer) return noVerdict('there is no machine to look at');
    return await checkObserve(observer, check.id, what.observe, { reveal, signal: context.signal });
  } catch (error) {
    if (isCarrelError(error, 'lab_invalid')) return noVerdict(error.message);
    context.abort(error);
    throw error;
  }
}

type Grading = Omit<GradeRequest, 'submission' | 'submissionId'>;

async function gradeChecks(
  context: CheckContext,
  { folder, parallel = availableParallelism(), onProgress }: Grading,
  whole: Outcome | undefined,
  observer?: Observer,
): Promise<GradeResult> {
  const { checks } = folder.lab;
  let done = 0;
  const outcomes = await inOrder(checks, {
    parallel: observer ? 1 : parallel,
    signal: context.signal,
    async run(check, before) {
      const unmet = check.needs.find((need) => before.get(need)?.verdict !== 'passed');
      const title = checks.find((other) => other.id === unmet)?.title;
      if (title !== undefined) return skippedBecause(title);
      if (whole && (whole.verdict === 'error' || check.what.kind !== 'observe')) return whole;
      return await outcomeOf(context, check, observer);
    },
    finished(check, outcome) {
      done += 1;
      onProgress?.({ done, total: checks.length, result: resultOf(check, outcome) });
    },
  });
  const results = checks.map((check) => resultOf(check, outcomes.get(check.id) ?? noVerdict('was not run')));
  return {
    state: results.some(({ state }) => state === 'error') ? 'error' : 'graded',
    rawPoints: sumPoints(results.map(({ points }) => points)),
    maxPoints: folder.lab.points,
    checks: results,
    verdicts: new Map([...outcomes].map(([id, { verdict }]) => [id, verdict])),
  };
}

async function gradeInMachine(
  context: CheckContext,
  request: GradeRequest,
  whole: Outcome | undefined,
  withFreshMachine: WithFreshMachine | undefined,
): Promise<GradeResult> {
  if (!withFreshMachine) throw new CarrelError('host_unsupported', 'this grader cannot make machines');
  const { lab } = request.folder;
  const { submissionId } = request;
  const { driver, limits } = lab.machine;
  if (driver === 'micro') throw new CarrelError('internal', 'a lab of guests was to be graded in a machine');
  const labels = { lab: lab.name, submission: submissionId };
  return await withFreshMachine(
    { image: lab.image, driver, limits, submissionId, labels, signal: context.signal },
    async (machine) => {
      try {
        const output = await startMachine(context, machine, lab.start);
        const result = await gradeChecks(context, request, whole, observerOf(machine));
        const [first, ...rest] = result.checks;
        if (!first || first.stdout !== '' || first.stderr !== '') return result;
        const check = lab.checks[0];
        return check ? { ...result, checks: [{ ...first, ...shownOutput(check, output) }, ...rest] } : result;
      } catch (error) {
        if (!isCarrelError(error, 'lab_invalid')) throw error;
        return await gradeChecks(context, request, noVerdict(error.message), observerOf(machine));
      }
    },
  );
}

/**
 * Grades a submission.
 *
 * @example
 * const { rawPoints, checks } = await gradeSubmission({ folder, submission: '/tmp/s', submissionId }, deps);
 */
export async function gradeSubmission(request: GradeRequest, deps: GraderDeps): Promise<GradeResult> {
  const { folder, submission } = request;
  const scratch = await mkdtemp(join(deps.scratch ?? tmpdir(), 'carrel-grade-'));
  const stop = new AbortController();
  const signal = request.signal ? AbortSignal.any([request.signal, stop.signal]) : stop.signal;
  try {
    const files = await listFiles(submission, submissionLimits);
    const shared = {
      folder,
      submission,
      files,
      scratch,
      sandboxes: deps.sandboxes,
      guard: deps.guard,
      signal,
      abort: (reason: unknown) => stop.abort(reason),
      programs: new Map(),
      guests: new Map(),
    };
    const { context, whole } = await prepare(shared, deps.imageOf);
    if (folder.lab.run === 'machine' && whole?.verdict !== 'error')
      return await gradeInMachine(context, request, whole, deps.withFreshMachine);
    return await gradeChecks(context, request, whole);
  } finally {
    await removeTree(scratch);
  }
}
