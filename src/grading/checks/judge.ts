/**
 * An author's program judges a run. It runs in a sandbox of its own, which the student's program never enters;
 * what the student's program left are read-only files. The protocol is that of Kattis output validators:
 *
 *     ARGV... /tests /observation /work  < the run's standard output
 *
 * Exit status 42 accepts, 43 rejects; every other end is an error of the author. In /work it may leave
 * `score.txt` (the part of the points, 0 to 1, after 42) and `judgemessage.txt` (one line for the student,
 * used where he may know what was expected). Below /observation: stdout, stderr, report.json, files/.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { newId } from '#base/ids.ts';
import type { SandboxReport } from '#isolate/sandbox.ts';
import { type CheckContext, runSandbox } from '../context.ts';
import type { JudgeSpec } from '../format/kinds.ts';
import { resolveLimits } from '../format/limits.ts';
import type { RunSeen } from '../judge/expect.ts';
import {
  type Outcome,
  describeEnd,
  failed,
  noVerdict,
  passed,
  scored,
  stoppedByLimit,
} from '../judge/outcome.ts';
import { oneLine } from '../judge/text.ts';

const accepted = 42;
const rejected = 43;

/** The run as files. Names come from lab.yaml and are safe; contents are the student's. */
async function writeObservation(directory: string, report: SandboxReport, seen: RunSeen): Promise<void> {
  await mkdir(join(directory, 'files'), { recursive: true });
  const { end, usage } = report;
  await writeFile(join(directory, 'stdout'), seen.stdout);
  await writeFile(join(directory, 'stderr'), seen.stderr);
  await writeFile(join(directory, 'report.json'), JSON.stringify({ end, usage }));
  for (const { path, content, truncated } of seen.files) {
    if (content === undefined || truncated) continue;
    const target = join(directory, 'files', path);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, content);
  }
}

/** A fraction in decimal notation. */
function parseScore(text: string): number | undefined {
  const score = /^\s*(?:0|1|0?\.\d{1,12}|0\.\d{1,12}|1\.0{1,12})\s*$/.test(text) ? Number(text) : Number.NaN;
  return Number.isNaN(score) ? undefined : score;
}

/** The verdict in a judge's end and feedback. Pure. */
export function verdictOfJudge(
  status: number,
  feedback: { score?: string | undefined; message?: string | undefined },
  reveal: boolean,
): Outcome | undefined {
  const said = reveal ? oneLine(feedback.message ?? '') : '';
  if (status === rejected) return failed(said === '' ? 'not accepted' : said);
  if (status !== accepted) return undefined;
  if (feedback.score === undefined) return passed(said === '' ? 'accepted' : said);
  const score = parseScore(feedback.score);
  if (score === undefined)
    return noVerdict(`the judge's score.txt is no number from 0 to 1: ${oneLine(feedback.score, 40)}`);
  return scored(score, said === '' ? `accepted in part: ${score}` : said);
}

export async function judgeRun(
  context: CheckContext,
  spec: JudgeSpec,
  report: SandboxReport,
  seen: RunSeen,
  reveal: boolean,
): Promise<Outcome> {
  const observation = join(context.scratch, newId('exec'));
  await writeObservation(observation, report, seen);
  const limits = resolveLimits({ cpu: 10_000 }, spec.limits);
  const judging = await runSandbox(context, {
    argv: [...spec.argv, '/tests', '/observation', '/work'],
    limits,
    stdin: seen.stdout,
    inputs: [
      { host: observation, guest: '/observation' },
      { host: join(context.folder.directory, 'tests'), guest: '/tests' },
    ],
    work: [],
    collect: [
      { path: 'score.txt', maxBytes: 100 },
      { path: 'judgemessage.txt', maxBytes: 4096 },
    ],
  });
  const stopped = stoppedByLimit(judging, limits);
  if (stopped) return noVerdict(`the judge ${stopped.reason}`);
  const text = (path: string): string | undefined => {
    const content = judging.files.find((file) => file.path === path)?.data;
    return content === undefined ? undefined : Buffer.from(content).toString('utf8');
  };
  const status = judging.end.kind === 'exited' ? judging.end.status : -1;
  const feedback = { score: text('score.txt'), message: text('judgemessage.txt') };
  const said = oneLine(Buffer.from(judging.stderr).toString('utf8'));
  return (
    verdictOfJudge(status, feedback, reveal) ??
    noVerdict(
      `the judge ${describeEnd(judging)}, which is neither 42 nor 43${said === '' ? '' : `: ${said}`}`,
    )
  );
}
