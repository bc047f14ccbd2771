/**
 * A machine is looked at from outside: no program of it is asked, since the student is root there and may have
 * replaced it.
 */
import { sleep } from '#base/deadline.ts';
import type { ObserveSpec } from '../../format/kinds.ts';
import type { Outcome } from '../../judge/outcome.ts';
import type { FreshMachine } from '../../machine.ts';
import { createContainerObserver } from './container.ts';
import type { LookOptions, Observer } from './observer.ts';
import { createVmObserver } from './vm.ts';

const lookEveryMs = 100;

/** The one for this kind of machine; its time to settle begins now. */
export function observerOf(machine: FreshMachine): Observer {
  return machine.driver === 'container' ? createContainerObserver(machine) : createVmObserver(machine);
}

/** Runs one observation, again until it passes or the machine has had its time. */
export async function checkObserve(
  observer: Observer,
  id: string,
  spec: ObserveSpec,
  options: LookOptions,
): Promise<Outcome> {
  for (;;) {
    const settled = await observer.settled();
    const outcome = await observer.look(id, spec, options);
    const final = outcome.verdict === 'passed' || outcome.verdict === 'error';
    if (final || settled) return outcome;
    await sleep(lookEveryMs, options.signal);
  }
}
