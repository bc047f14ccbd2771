/** Python: harness/call.py loads the file, calls the function, and writes one line of JSON. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { type CheckContext, keep, programOf, runSandbox, submittedWork } from '../context.ts';
import { value } from '../format/fields.ts';
import type { CallSpec } from '../format/kinds.ts';
import type { Limits } from '../format/limits.ts';
import { formatValue, parseValue } from '../format/values.ts';
import { type Answer, type Caller, answerOf } from './answer.ts';

const harness = new URL('../harness/call.py', import.meta.url);
const inside = '/harness/call.py';

/** -I: no user site, no environment; -B: no bytecode files. */
const interpreter = ['/usr/bin/python3', '-I', '-B', inside] as const;

/** What call.py writes. The student's code can write the same: it is parsed like anything foreign. */
const answerLine = z.union([
  z.strictObject({ returned: z.strictObject({ json: value }) }),
  z.strictObject({ returned: z.strictObject({ float: z.string().max(40) }) }),
  z.strictObject({
    raised: z.strictObject({
      type: z.string().max(200),
      bases: z.array(z.string().max(200)).max(16),
      message: z.string().max(2000),
      line: z.int().nullable(),
    }),
  }),
  z.strictObject({ missing: z.string().max(200) }),
  z.strictObject({ unreadable: z.string().max(200) }),
]);

const floats: Readonly<Record<string, number>> = {
  inf: Number.POSITIVE_INFINITY,
  '-inf': Number.NEGATIVE_INFINITY,
  nan: Number.NaN,
};

/** Parses one line of the harness. Throws if it is none. */
export function readPythonAnswer(line: string): Answer {
  const answer = answerLine.parse(parseValue(line));
  if ('missing' in answer) return { kind: 'none', why: `there is no function ${answer.missing}` };
  if ('unreadable' in answer)
    return { kind: 'none', why: `returned a value of type ${answer.unreadable}, which is no plain data` };
  if ('raised' in answer) return { kind: 'raised', ...answer.raised, line: answer.raised.line ?? undefined };
  if ('json' in answer.returned) return { kind: 'returned', value: answer.returned.json };
  return { kind: 'returned', value: floats[answer.returned.float] ?? null };
}

export function callPython(context: CheckContext, spec: CallSpec, limits: Limits): Caller {
  return async (args) => {
    const request = `{"file": ${JSON.stringify(spec.file)}, "function": ${JSON.stringify(spec.function)}, "args": ${formatValue(args)}}`;
    const program = await programOf(context, 'python', async () => ({
      host: await keep(context, 'call.py', await readFile(harness), 0o644),
    }));
    if ('verdict' in program) return program;
    const report = await runSandbox(context, {
      argv: interpreter,
      limits,
      stdin: Buffer.from(request),
      inputs: [{ host: program.host, guest: inside }],
      work: submittedWork(context),
    });
    return { report, answer: answerOf(report, readPythonAnswer) };
  };
}
