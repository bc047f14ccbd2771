/** What comes back from a call, and how it is read: nothing but one line from a process that ended well. */
import type { SandboxReport } from '#isolate/sandbox.ts';
import type { Value } from '../format/values.ts';
import { type Outcome, describeEnd } from '../judge/outcome.ts';

/** What came back from one call. */
export type Answer =
  | { readonly kind: 'returned'; readonly value: Value }
  | {
      readonly kind: 'raised';
      readonly type: string;
      readonly bases: readonly string[];
      readonly message: string;
      readonly line: number | undefined;
    }
  /** No answer can be used; `why` is a sentence for the student. */
  | { readonly kind: 'none'; readonly why: string };

export interface Call {
  readonly report: SandboxReport;
  readonly answer: Answer;
}

/** Calls with these arguments, or gives the outcome that holds for all calls (it does not compile). */
export type Caller = (args: readonly Value[]) => Promise<Call | Outcome>;

/**
 * The value of a call, if the process ended well and gave exactly one answer. `read` parses the one line.
 */
export function answerOf(report: SandboxReport, read: (line: string) => Answer): Answer {
  const { end, result } = report;
  if (end.kind !== 'exited' || end.status !== 0) return { kind: 'none', why: describeEnd(report) };
  const text = Buffer.from(result).toString('utf8');
  if (text === '') return { kind: 'none', why: 'ended before the function returned' };
  const lines = text.split('\n');
  if (lines.length !== 2 || lines[1] !== '') return { kind: 'none', why: 'gave more than one result' };
  try {
    return read(lines[0] ?? '');
  } catch {
    return { kind: 'none', why: 'gave a result that cannot be read' };
  }
}
