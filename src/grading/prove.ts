/**
 * Proves a lab: every solution gets exactly what it promises, and every check is failed by at least one wrong
 * solution. A check that nothing fails may pass everything, so it is listed as unproven.
 */
import { mkdir, copyFile, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { CheckResult } from '#contract/schemas/labs.ts';
import { removeTree } from '#host/trees.ts';
import { type LabFolder, type Solution, loadLab } from './format/folder.ts';
import type { LabDefinition } from './format/lab.ts';
import type { Promised } from './format/schema.ts';
import { type GradeResult, type GraderDeps, gradeSubmission } from './run.ts';

export interface Mismatch {
  readonly check: string;
  readonly promised: Promised;
  readonly found: Promised;
  readonly reason: string;
}

export interface SolutionProof {
  readonly name: string;
  readonly ok: boolean;
  readonly points: number;
  readonly wallMs: number;
  readonly mismatches: readonly Mismatch[];
  readonly checks: readonly CheckResult[];
}

export interface LabProof {
  readonly lab: Pick<LabDefinition, 'name' | 'title' | 'points' | 'run' | 'image'>;
  /** Every solution is as promised, and there is one that passes everything. */
  readonly ok: boolean;
  readonly solutions: readonly SolutionProof[];
  /** Ids of checks that no solution fails. */
  readonly unproven: readonly string[];
  /** What else is wrong, in sentences. */
  readonly problems: readonly string[];
}

export type ProveProgress =
  | { readonly kind: 'loaded'; readonly solutions: number; readonly checks: number }
  | { readonly kind: 'solution'; readonly name: string; readonly number: number; readonly total: number }
  | { readonly kind: 'check'; readonly solution: string; readonly done: number; readonly total: number }
  | { readonly kind: 'proved'; readonly solution: SolutionProof };

export interface ProveOptions {
  readonly signal?: AbortSignal;
  readonly parallel?: number;
}

/** `failed` is kept by every way to fail; the others by exactly that way. */
export function keepsPromise(promised: Promised, found: Promised): boolean {
  const failures: readonly Promised[] = ['failed', 'timeout', 'memory', 'crashed', 'raised'];
  return promised === 'failed' ? failures.includes(found) : promised === found;
}

const counts: ReadonlySet<Promised> = new Set([
  'failed',
  'partial',
  'timeout',
  'memory',
  'crashed',
  'raised',
]);

/** Checks that no solution fails. */
export function unprovenChecks(
  checks: readonly string[],
  verdicts: readonly ReadonlyMap<string, Promised>[],
): string[] {
  return checks.filter((id) => !verdicts.some((of) => counts.has(of.get(id) ?? 'skipped')));
}

function compare(solution: Solution, result: GradeResult): Mismatch[] {
  return result.checks.flatMap(({ id, reason }) => {
    const promised = solution.promises.get(id) ?? 'passed';
    const found = result.verdicts.get(id) ?? 'error';
    return keepsPromise(promised, found) ? [] : [{ check: id, promised, found, reason }];
  });
}

/** The files of a solution as a submission: without expect.yaml. */
async function copySolution({ directory, files }: Solution, target: string): Promise<void> {
  for (const { path } of files) {
    await mkdir(join(target, dirname(path)), { recursive: true });
    await copyFile(join(directory, path), join(target, path));
  }
}

async function gradeSolution(
  folder: LabFolder,
  solution: Solution,
  deps: GraderDeps,
  options: ProveOptions,
  onProgress: (progress: ProveProgress) => void,
): Promise<{ proof: SolutionProof; result: GradeResult }> {
  const submission = await mkdtemp(join(deps.scratch ?? tmpdir(), 'carrel-solution-'));
  const began = performance.now();
  try {
    await copySolution(solution, submission);
    const result = await gradeSubmission(
      {
        folder,
        submission,
        submissionId: `solution-${solution.name}`,
        ...options,
        onProgress: ({ done, total }) => onProgress({ kind: 'check', solution: solution.name, done, total }),
      },
      deps,
    );
    const mismatches = compare(solution, result);
    const proof = {
      name: solution.name,
      ok: mismatches.length === 0,
      points: result.rawPoints,
      wallMs: Math.round(performance.now() - began),
      mismatches,
      checks: result.checks,
    };
    return { proof, result };
  } finally {
    await removeTree(submission);
  }
}

/**
 * Loads a lab folder and runs all its solutions.
 *
 * @example
 * await using deps = await openLocalGrader();
 * const { ok, unproven } = await proveLab('labs/reach-number', deps);
 */
export async function proveLab(
  directory: string,
  deps: GraderDeps,
  onProgress: (progress: ProveProgress) => void = () => {},
  options: ProveOptions = {},
): Promise<LabProof> {
  const folder = await loadLab(directory);
  const { lab } = folder;
  onProgress({ kind: 'loaded', solutions: folder.solutions.length, checks: lab.checks.length });
  const solutions: SolutionProof[] = [];
  const verdicts: ReadonlyMap<string, Promised>[] = [];
  for (const [index, solution] of folder.solutions.entries()) {
    onProgress({ kind: 'solution', name: solution.name, number: index + 1, total: folder.solutions.length });
    const { proof, result } = await gradeSolution(folder, solution, deps, options, onProgress);
    solutions.push(proof);
    verdicts.push(result.verdicts);
    onProgress({ kind: 'proved', solution: proof });
  }
  const reference = solutions.some(({ checks }) => checks.every(({ state }) => state === 'passed'));
  const problems = reference
    ? []
    : ['no solution passes every check, so nothing shows that the lab can be solved'];
  return {
    lab: { name: lab.name, title: lab.title, points: lab.points, run: lab.run, image: lab.image },
    ok: reference && solutions.every(({ ok }) => ok),
    solutions,
    unproven: unprovenChecks(
      lab.checks.map(({ id }) => id),
      verdicts,
    ),
    problems,
  };
}
