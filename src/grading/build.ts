/** The build step: once per submission, in a sandbox of its own. */
import { newId } from '#base/ids.ts';
import {
  type CheckContext,
  type Placed,
  keep,
  overlay,
  placedTests,
  runSandbox,
  submittedWork,
} from './context.ts';
import { type Outcome, describeEnd, failed, observed, stoppedByLimit } from './judge/outcome.ts';
import { oneLine } from './judge/text.ts';

/** The files kept, or why the submission could not be built. */
export type Built = { readonly files: readonly Placed[] } | { readonly failure: Outcome };

export async function buildSubmission(context: CheckContext): Promise<Built> {
  const { build } = context.folder.lab;
  if (!build) return { files: [] };
  const report = await runSandbox(context, {
    argv: build.argv,
    env: build.env,
    limits: build.resolved,
    work: overlay(submittedWork(context), placedTests(context, build.files)),
    collect: build.keep.map((path) => ({ path, maxBytes: build.maxSize })),
  });
  const stopped = stoppedByLimit(report, build.resolved);
  if (stopped)
    return { failure: observed({ ...stopped, reason: `cannot be built: ${stopped.reason}` }, report) };
  if (report.end.kind !== 'exited' || report.end.status !== 0) {
    const text = Buffer.from(report.stderr).toString('utf8');
    const line = text.split('\n').find((each) => /error/i.test(each)) ?? describeEnd(report);
    return { failure: observed(failed(`cannot be built: ${oneLine(line)}`), report) };
  }
  const files: Placed[] = [];
  for (const path of build.keep) {
    const file = report.files.find((each) => each.path === path);
    if (file?.data === undefined)
      return { failure: observed(failed(`the build left no file ${path}`), report) };
    files.push({ host: await keep(context, newId('exec'), file.data), guest: path });
  }
  return { files };
}
