/** C: the submission is compiled with a generated main program, once per function, in a sandbox of its own. */
import { newId } from '#base/ids.ts';
import { type CheckContext, keep, type Program, programOf, runSandbox, submittedWork } from '../context.ts';
import type { CallSpec } from '../format/kinds.ts';
import type { Limits } from '../format/limits.ts';
import { type Signature, parseSignature } from '../format/signature.ts';
import { type Caller, answerOf } from './answer.ts';
import { cHarness, decodeResult, encodeArguments } from './c-harness.ts';
import { runGcc } from './gcc.ts';

const source = '/harness/call.c';
const program = '/harness/call';
const output = 'carrel-call';

async function compile(context: CheckContext, spec: CallSpec, signature: Signature): Promise<Program> {
  const main = await keep(context, `${newId('exec')}.c`, Buffer.from(cHarness(signature)), 0o644);
  return await runGcc(context, {
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
    output,
    inputs: [{ host: main, guest: source }],
    work: submittedWork(context),
  });
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
