/** When a virtual machine has come to rest: what its boot or a script has left to do is done. */
import { sleep } from '#base/deadline.ts';
import type { FreshVm } from './machine.ts';

/** It has had nothing to do for so long, */
const idleMs = 2000;
/** which is to use less of one processor than this; an idle guest under emulation uses some hundredths. */
const idleShare = 0.08;
/** One that always has something to do is not waited for any longer: a boot on a busy host takes less. */
const patienceMs = 60_000;
const lookEveryMs = 100;

/**
 * Has it come to rest since this was called? Time on a busy host says little of what a guest has had to work with: so it
 * is what it uses that is looked at. One that is off is at rest.
 */
export function watchRest(machine: Pick<FreshVm, 'cpuMs'>): () => Promise<boolean> {
  const began = performance.now();
  let idle: { readonly since: number; readonly cpuMs: number } | undefined;
  return async () => {
    const now = performance.now();
    const used = await machine.cpuMs();
    if (used === null || now - began > patienceMs) return true;
    if (!idle || used - idle.cpuMs > idleMs * idleShare) idle = { since: now, cpuMs: used };
    return now - idle.since >= idleMs;
  };
}

export async function untilAtRest(atRest: () => Promise<boolean>, signal: AbortSignal): Promise<void> {
  while (!(await atRest())) await sleep(lookEveryMs, signal);
}
