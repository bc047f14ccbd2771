/** When a virtual machine has come to rest: what its boot or a script has left to do is done. */
import { sleep } from '#base/deadline.ts';

export interface Rest {
  /** It has had nothing to do for so long: */
  readonly idleMs?: number;
  /** less of one processor than this. An idle guest under emulation uses some hundredths. */
  readonly idleShare?: number;
  /** One that always has something to do is not waited for any longer: a boot on a busy host takes less. */
  readonly patienceMs?: number;
}

const lookEveryMs = 100;

/**
 * Has it come to rest since this was called? Time on a busy host says little of what a guest has had to work with: so it
 * is what it uses that is looked at. One that is off (null) is at rest.
 */
export function watchRest(
  machine: { cpuMs(): Promise<number | null> },
  { idleMs = 2000, idleShare = 0.08, patienceMs = 60_000 }: Rest = {},
): () => Promise<boolean> {
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
