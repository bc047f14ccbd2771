/**
 * Who runs next on the one core. Pure: from what every machine had so far to a choice.
 *
 * `io` is cooperative: a machine runs until it asks the host for something. `timer` is round robin: a tick takes the
 * core away, whatever it is doing. `weights` is proportional: at each tick the core goes to whoever has had the least
 * for its weight, which is how Linux's CFS chose (Documentation/scheduler/sched-design-CFS.rst, virtual runtime).
 */

export const policyNames = ['io', 'timer', 'weights'] as const;
export type PolicyName = (typeof policyNames)[number];

/** Why a machine stopped running. */
export type SwitchCause = 'io' | 'tick' | 'end';

export interface Contender {
  /** CPU time it has had, in milliseconds. */
  readonly cpuMs: number;
  /** Of a sum: 70 beside 30 is 70 %. */
  readonly weight: number;
  /** It has not ended. */
  readonly ready: boolean;
}

/** Whether a machine that stopped for this reason keeps the core, before anything else is asked. */
export function keepsCore(policy: PolicyName, cause: SwitchCause): boolean {
  if (cause === 'end') return false;
  return policy === 'io' ? cause === 'tick' : cause === 'io';
}

/** The next one in the circle that is ready, the current one last. */
function nextInTurn(contenders: readonly Contender[], current: number): number | undefined {
  for (let step = 1; step <= contenders.length; step += 1) {
    const index = (current + step) % contenders.length;
    if (contenders[index]?.ready) return index;
  }
  return undefined;
}

/** Who gets the core now; undefined when all have ended. */
export function choose(
  policy: PolicyName,
  contenders: readonly Contender[],
  current: number,
): number | undefined {
  const inTurn = nextInTurn(contenders, current);
  if (policy !== 'weights' || inTurn === undefined) return inTurn;
  let best = inTurn;
  const had = (index: number): number => {
    const { cpuMs = 0, weight = 1 } = contenders[index] ?? {};
    return cpuMs / weight;
  };
  for (const [index, { ready }] of contenders.entries()) if (ready && had(index) < had(best)) best = index;
  return best;
}
