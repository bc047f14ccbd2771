/** Runs checks in the order of the file, several at a time, each after the checks it needs. */
import type { Check } from './format/lab.ts';
import type { Outcome } from './judge/outcome.ts';

export interface Schedule<C> {
  readonly parallel: number;
  readonly signal: AbortSignal;
  /** `before` has the outcomes of at least the checks that this one needs. */
  readonly run: (check: C, before: ReadonlyMap<string, Outcome>) => Promise<Outcome>;
  readonly finished: (check: C, outcome: Outcome) => void;
}

/**
 * The outcomes by check. The first fault stops what has not begun, waits for what runs, and is thrown.
 * Every need must come before the check that has it (the format sees to that), so this always ends.
 */
export async function inOrder<C extends Pick<Check, 'id' | 'needs'>>(
  checks: readonly C[],
  { parallel, signal, run, finished }: Schedule<C>,
): Promise<Map<string, Outcome>> {
  const outcomes = new Map<string, Outcome>();
  const waiting = [...checks];
  const running = new Set<Promise<void>>();
  let fault: { error: unknown } | undefined;

  const start = (check: C): void => {
    const work = async (): Promise<void> => {
      try {
        signal.throwIfAborted();
        const outcome = await run(check, outcomes);
        outcomes.set(check.id, outcome);
        finished(check, outcome);
      } catch (error) {
        fault ??= { error };
      }
    };
    const task: Promise<void> = work().finally(() => running.delete(task));
    running.add(task);
  };

  for (;;) {
    const next = fault ? -1 : waiting.findIndex(({ needs }) => needs.every((need) => outcomes.has(need)));
    const [check] = next >= 0 && running.size < Math.max(1, parallel) ? waiting.splice(next, 1) : [];
    if (check) start(check);
    else if (running.size > 0) await Promise.race(running);
    else break;
  }
  if (fault) throw fault.error;
  return outcomes;
}
