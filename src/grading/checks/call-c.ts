/** C: the submission is compiled with a generated main program, once per function, in a sandbox of its own. */
import { newId } from '#base/ids.ts';
import {
  type CheckContext,
  type Program,
  keep,
  programOf,
  maxCollected,
  runSandbox,
  submittedWork,
} from '../context.ts';
import type { CallSpec } from '../format/kinds.ts';
import { type Limits, resolveLimits } from '../format/limits.ts';
import { type Signature, parseSignature } from '../format/signature.ts';
import { failed, noVerdict, observed, stoppedByLimit } from '../judge/outcome.ts';
import { oneLine } from '../judge/text.ts';
import { type Caller, answerOf } from './answer.ts';
import { cHarness, decodeResult, encodeArguments } from './c-harness.ts';

const compileLimits = resolveLimits({ cpu: 30_000, memory: 512 * 2 ** 20, output: 262_144 });
const source = '/harness/call.c';
const program = '/harness/call';
const output = 'carrel-call';

async function compile(context: CheckContext, spec: CallSpec, signature: Signature): Promise<Program> {
  const main = await keep(context, `${newId('exec')}.c`, Buffer.from(cHarness(signature)), 0o644);
  const report = await runSandbox(context, {
    // a main function in the submission is renamed, so that a file that also runs by itself can be called
    argv: [
      '/usr/bin/gcc',
      '-std=gnu17',
      '-O1',
      '-Wall',
      '-I.',
      '-Dmain=carrel_main_of_submission',
      '-o',
      output,
      source,
      spec.file,
      ...spec.flags,
    ],
    limits: compileLimits,
    inputs: [{ host: main, guest: source }],
    work: submittedWork(context),
    collect: [{ path: output, maxBytes: maxCollected }],
  });
  const stopped = stoppedByLimit(report, compileLimits);
  if (stopped) return observed(failed(`does not compile: the compiler ${stopped.reason}`), report);
  if (report.end.kind !== 'exited' || report.end.status !== 0) {
    const text = Buffer.from(report.stderr).toString('utf8');
    const line = text.split('\n').find((each) => /error|undefined reference|multiple definition/.test(each));
    return observed(
      failed(`does not compile: ${oneLine(line ?? text.split('\n')[0] ?? 'no reason given')}`),
      report,
    );
  }
  const file = report.files.find(({ path }) => path === output);
  if (file?.data === undefined) return observed(noVerdict('the compiler left no program'), report);
  return { host: await keep(context, newId('exec'), file.data) };
}

export function callC(context: CheckContext, spec: CallSpec, limits: Limits): Caller {
  const signature = parseSignature(spec.signature ?? '');
  // checks of one function share one compilation
  const key = JSON.stringify([spec.file, spec.signature, spec.flags]);
  return async (args) => {
    const built = await programOf(context, key, () => compile(context, spec, signature));
    if ('verdict' in built) return built;
    const report = await runSandbox(context, {
      argv: [program],
      limits,
      stdin: Buffer.from(encodeArguments(signature, args)),
      inputs: [{ host: built.host, guest: program }],
      work: submittedWork(context),
    });
    return {
      report,
      answer: answerOf(report, (line) => ({ kind: 'returned', value: decodeResult(signature.result, line) })),
    };
  };
}
