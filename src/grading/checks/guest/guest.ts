/** A guest of the student's is compiled and run, and what the machine saw of it is judged. */
import { isCarrelError } from '#base/errors.ts';
import { type CheckContext, readTest } from '../../context.ts';
import type { GuestSpec } from '../../format/guest.ts';
import type { Limits } from '../../format/limits.ts';
import { guestProblem } from '../../judge/guest.ts';
import { failed, noVerdict, type Outcome, passed, usageOf } from '../../judge/outcome.ts';
import { type Ran, runGuest } from './machine.ts';

/** What the guest printed, for the student; several vCPUs labelled. */
export function printedBy({ report: { vcpus } }: Ran): Uint8Array {
  const label = (text: string, index: number): string =>
    vcpus.length === 1 ? text : text.replace(/^(?=.)/gm, `[vcpu ${index}] `);
  return Buffer.from(vcpus.map(({ output }, index) => label(output, index)).join(''));
}

export async function checkGuest(
  context: CheckContext,
  spec: GuestSpec,
  limits: Limits,
  reveal: boolean,
): Promise<Outcome> {
  const ran = await runGuest(context, spec, limits);
  if ('verdict' in ran) return ran;
  if ('refused' in ran) return failed(`the guest cannot be run: ${ran.refused}`);
  const seen = { stdout: printedBy(ran), usage: usageOf(ran.process) };
  const judging = { guard: context.guard, readTest: (path: string) => readTest(context, path), reveal };
  try {
    const { vcpus } = ran.report;
    const problem = await guestProblem({ vcpus, words: ran.words, files: ran.files }, spec.expect, judging);
    return { ...(problem ?? passed('as expected')), ...seen };
  } catch (error) {
    if (!isCarrelError(error, 'deadline_exceeded')) throw error;
    return { ...noVerdict(error.message), ...seen };
  }
}
