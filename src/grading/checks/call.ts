/**
 * A function of the submission is called, one process per case. The harness inside only says what came back,
 * on descriptor 3; what was expected stays here, so there is nothing inside to find, print or forge: whoever
 * writes the right value there has computed it, or guessed it in one try.
 */
import type { CheckContext } from '../context.ts';
import type { CallCase, CallSpec } from '../format/kinds.ts';
import type { Limits } from '../format/limits.ts';
import { type Value, formatValue } from '../format/values.ts';
import { valuesEqual } from '../judge/equal.ts';
import {
  type Outcome,
  describeEnd,
  failed,
  observed,
  passed,
  scored,
  stoppedByLimit,
} from '../judge/outcome.ts';
import { cut, oneLine } from '../judge/text.ts';
import type { Answer, Caller } from './answer.ts';
import { callC } from './call-c.ts';
import { callPython } from './call-python.ts';

/** The casual reader's view of one call: `f(2, "x")`. */
function callText(name: string, args: readonly Value[]): string {
  return `${name}(${cut(args.map(formatValue).join(', '), 200)})`;
}

function judgeAnswer(answer: Answer, one: CallCase, call: string, reveal: boolean): Outcome {
  if (answer.kind === 'none') return failed(answer.why);
  if (answer.kind === 'raised') {
    const text = oneLine(answer.message === '' ? answer.type : `${answer.type}: ${answer.message}`);
    const at = answer.line === undefined ? '' : ` (line ${answer.line})`;
    if (one.raises !== undefined && [answer.type, ...answer.bases].includes(one.raises))
      return passed(reveal ? `${call} raised ${one.raises}` : 'raised what it should');
    return failed(`${text}${at}`, 'raised');
  }
  const value = cut(formatValue(answer.value), 200);
  if (one.raises !== undefined)
    return failed(
      reveal ? `${call} returned ${value}, and should raise ${one.raises}` : 'returned, and should raise',
    );
  const expected = one.returns ?? null;
  if (valuesEqual(answer.value, expected, one.tolerance))
    return passed(reveal ? `${call} returned ${value}` : 'right value');
  return failed(
    reveal ? `${call} returned ${value}, expected ${cut(formatValue(expected), 200)}` : 'wrong value',
  );
}

async function callCase(
  spec: CallSpec,
  one: CallCase,
  caller: Caller,
  limits: Limits,
  reveal: boolean,
): Promise<Outcome> {
  const call = await caller(one.args);
  if ('verdict' in call) return call;
  const { report, answer } = call;
  const text = callText(spec.function, one.args);
  const stopped = stoppedByLimit(report, limits);
  if (stopped)
    return observed({ ...stopped, reason: reveal ? `${text} ${stopped.reason}` : stopped.reason }, report);
  if (report.end.kind === 'signaled')
    return observed(failed(`crashed: ${describeEnd(report)}`, 'crashed'), report);
  return observed(judgeAnswer(answer, one, text, reveal), report);
}

/** The outcomes of several cases as one: the part that is right, and the first that is wrong. */
export function combineCases(outcomes: readonly Outcome[]): Outcome {
  const [first] = outcomes;
  if (first === undefined || outcomes.length === 1) return first ?? failed('no case was tried');
  const broken = outcomes.find(({ verdict }) => verdict === 'error');
  if (broken) return broken;
  const right = outcomes.filter(({ verdict }) => verdict === 'passed').length;
  const wrong = outcomes.find(({ verdict }) => verdict !== 'passed');
  const reason = `${right} of ${outcomes.length} cases are right${wrong ? `; ${wrong.reason}` : ''}`;
  const usage = outcomes.reduce(
    (sum, { usage }) => ({
      wallMs: sum.wallMs + (usage?.wallMs ?? 0),
      cpuMs: sum.cpuMs + (usage?.cpuMs ?? 0),
      memoryBytes: Math.max(sum.memoryBytes, usage?.memoryBytes ?? 0),
    }),
    { wallMs: 0, cpuMs: 0, memoryBytes: 0 },
  );
  const verdict = scored(right / outcomes.length, reason);
  return {
    ...(wrong ?? first),
    ...verdict,
    verdict: right === 0 && wrong ? wrong.verdict : verdict.verdict,
    usage,
  };
}

/** Runs a call check. `reveal`: the student may know the expected values. */
export async function checkCall(
  context: CheckContext,
  spec: CallSpec,
  limits: Limits,
  reveal: boolean,
): Promise<Outcome> {
  if (!context.files.some(({ path }) => path === spec.file)) return failed(`${spec.file} was not handed in`);
  const caller =
    spec.language === 'python' ? callPython(context, spec, limits) : callC(context, spec, limits);
  const cases = spec.cases ?? [{ ...spec, args: spec.args ?? [] }];
  const outcomes: Outcome[] = [];
  for (const one of cases) outcomes.push(await callCase(spec, one, caller, limits, reveal));
  return combineCases(outcomes);
}
