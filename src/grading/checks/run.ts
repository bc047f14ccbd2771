/** A command is run beside the submission's files, and what it did is judged outside. */
import { type CheckContext, overlay, placedTests, readTest, runSandbox, submittedWork } from '../context.ts';
import type { RunExpectation } from '../format/expectations.ts';
import type { RunSpec } from '../format/kinds.ts';
import type { Limits } from '../format/limits.ts';
import type { SandboxReport } from '#isolate/sandbox.ts';
import { fileSeen, type RunSeen, runProblem } from '../judge/expect.ts';
import {
  type Outcome,
  describeEnd,
  failed,
  noVerdict,
  observed,
  passed,
  stoppedByLimit,
  usageOf,
} from '../judge/outcome.ts';
import { isCarrelError } from '#base/errors.ts';
import { judgeRun } from './judge.ts';

const defaultFileBytes = 65_536;

async function standardInput(context: CheckContext, { stdin, stdinFile }: RunSpec): Promise<Uint8Array> {
  if (stdinFile !== undefined) return await readTest(context, stdinFile);
  return Buffer.from(stdin ?? '');
}

/** What must come back from the sandbox: the files that the expectations or the judge look at. */
function collected({ expect, judge }: RunSpec): { path: string; maxBytes: number }[] {
  const wanted = new Map((judge?.files ?? []).map((path) => [path, defaultFileBytes]));
  // one byte more than allowed, so that a file that is too large is seen to be
  for (const { path, maxSize } of expect?.files ?? [])
    wanted.set(path, Math.max(wanted.get(path) ?? 0, maxSize + 1));
  return [...wanted].map(([path, maxBytes]) => ({ path, maxBytes }));
}

/** What is wrong with the way it ended. A status is only judged if the author expects one, or has no judge. */
export function endProblem(report: SandboxReport, expect: RunExpectation): Outcome | undefined {
  const { end } = report;
  if (end.kind === 'exited') {
    if (expect.signal !== undefined) return failed(`${describeEnd(report)}, expected ${expect.signal}`);
    const status = expect.status ?? 0;
    return end.status === status ? undefined : failed(`${describeEnd(report)}, expected status ${status}`);
  }
  if (end.kind === 'signaled' && end.signal === expect.signal) return undefined;
  return failed(`crashed: ${describeEnd(report)}`, 'crashed');
}

function seenOf(report: SandboxReport, spec: RunSpec): RunSeen {
  const sizes = new Map((spec.expect?.files ?? []).map(({ path, maxSize }) => [path, maxSize]));
  return {
    stdout: report.stdout,
    stderr: report.stderr,
    files: report.files.map((file) => fileSeen(file.path, file, sizes.get(file.path) ?? defaultFileBytes)),
    ...usageOf(report),
  };
}

/** Runs a run check. `reveal`: the student may know what was expected. */
export async function checkRun(
  context: CheckContext,
  spec: RunSpec,
  limits: Limits,
  reveal: boolean,
): Promise<Outcome> {
  const report = await runSandbox(context, {
    argv: spec.argv,
    env: spec.env,
    limits,
    stdin: await standardInput(context, spec),
    work: overlay(submittedWork(context), placedTests(context, spec.files)),
    collect: collected(spec),
  });
  const stopped = stoppedByLimit(report, limits);
  if (stopped) return observed(stopped, report);
  const expect = spec.expect;
  const ended = expect && endProblem(report, expect);
  if (ended) return observed(ended, report);
  const seen = seenOf(report, spec);
  if (expect) {
    try {
      const judging = { guard: context.guard, readTest: (path: string) => readTest(context, path), reveal };
      const problem = await runProblem(seen, expect, judging);
      if (problem !== undefined) return observed(failed(problem), report);
    } catch (error) {
      if (!isCarrelError(error, 'deadline_exceeded')) throw error;
      return observed(noVerdict(error.message), report);
    }
  }
  const verdict = spec.judge
    ? await judgeRun(context, spec.judge, report, seen, reveal)
    : passed('as expected');
  return observed(verdict, report);
}
