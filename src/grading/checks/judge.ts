/**
 * An author's program judges a run. It runs in a sandbox of its own, which the student's program never enters;
 * what the student's program left are files for it. The protocol is that of Kattis output validators:
 *
 *     ARGV... tests observation feedback  < the run's standard output
 *
 * Exit status 42 accepts, 43 rejects; every other end is an error of the author. It runs in a directory with these three; in feedback/ it may leave
 * `score.txt` (the part of the points, 0 to 1, after 42) and `judgemessage.txt` (one line for the student,
 * used where he may know what was expected). Below observation/: stdout, stderr, report.json, files/.
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
  const write = async (path: string, content: string | Uint8Array): Promise<void> => {
    const target = join(directory, path);
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, content);
  };
  const { end, usage } = report;
  await write('stdout', seen.stdout);
  await write('stderr', seen.stderr);
  await write('report.json', JSON.stringify({ end, usage }));
  for (const { path, content, truncated } of seen.files)
    if (content !== undefined && !truncated) await write(join('files', path), content);
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
  const feedback = join(context.scratch, newId('exec'));
  await mkdir(feedback);
  await writeObservation(observation, report, seen);
  const limits = resolveLimits({ cpu: 10_000, disk: 256 * 2 ** 20 }, spec.limits);
  const tests = { host: join(context.folder.directory, 'tests'), guest: 'tests' };
  const judging = await runSandbox(context, {
    argv: [...spec.argv, 'tests', 'observation', 'feedback'],
    limits,
    stdin: seen.stdout,
    // copied rather than bound: whatever their modes on this host, the judge can read them
    work: [
      { host: observation, guest: 'observation' },
      { host: feedback, guest: 'feedback' },
      ...(context.folder.tests.size > 0 ? [tests] : []),
    ],
    collect: [
      { path: 'feedback/score.txt', maxBytes: 100 },
      { path: 'feedback/judgemessage.txt', maxBytes: 4096 },
    ],
  });
  const stopped = stoppedByLimit(judging, limits);
  if (stopped) return noVerdict(`the judge ${stopped.reason}`);
  const text = (path: string): string | undefined => {
    const content = judging.files.find((file) => file.path === `feedback/${path}`)?.data;
    return content === undefined ? undefined : Buffer.from(content).toString('utf8');
  };
  const status = judging.end.kind === 'exited' ? judging.end.status : -1;
  const left = { score: text('score.txt'), message: text('judgemessage.txt') };
  const said = oneLine(Buffer.from(judging.stderr).toString('utf8'));
  return (
    verdictOfJudge(status, left, reveal) ??
    noVerdict(
      `the judge ${describeEnd(judging)}, which is neither 42 nor 43${said === '' ? '' : `: ${said}`}`,
    )
  );
}
