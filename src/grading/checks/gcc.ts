/** gcc in a sandbox of its own: a program, or why there is none. */
import { newId } from '#base/ids.ts';
import { type CheckContext, keep, maxCollected, type Placed, type Program, runSandbox } from '../context.ts';
import { resolveLimits } from '../format/limits.ts';
import { failed, noVerdict, observed, type Outcome, stoppedByLimit } from '../judge/outcome.ts';
import { oneLine } from '../judge/text.ts';

const limits = resolveLimits({ cpu: 30_000, memory: 512 * 2 ** 20, output: 262_144 });

export interface Compilation {
  readonly argv: readonly string[];
  /** The file that it makes, in its working directory. */
  readonly output: string;
  readonly inputs: readonly { readonly host: string; readonly guest: string }[];
  readonly work: readonly Placed[];
  /** Of what it makes, as it is kept. */
  readonly mode?: number;
}

/** `blame` makes a verdict of what gcc says: it is the author's word or the student's that it does not understand. */
export async function runGcc(
  context: CheckContext,
  { argv, output, inputs, work, mode }: Compilation,
  blame: (reason: string) => Outcome = failed,
): Promise<Program> {
  const report = await runSandbox(context, {
    argv,
    env: { LC_ALL: 'C' },
    limits,
    inputs,
    work,
    collect: [{ path: output, maxBytes: maxCollected }],
  });
  const stopped = stoppedByLimit(report, limits);
  if (stopped) return observed(blame(`does not compile: the compiler ${stopped.reason}`), report);
  if (report.end.kind !== 'exited' || report.end.status !== 0) {
    const text = Buffer.from(report.stderr).toString('utf8');
    const line = text.split('\n').find((each) => /error|undefined reference|multiple definition/i.test(each));
    const said = oneLine(line ?? text.split('\n')[0] ?? 'no reason given');
    return observed(blame(`does not compile: ${said}`), report);
  }
  const file = report.files.find(({ path }) => path === output);
  if (file?.data === undefined) return observed(noVerdict('the compiler left nothing'), report);
  return { host: await keep(context, newId('exec'), file.data, mode) };
}
