/** A machine's state as the OS-Cloud routes name it. */
import type { Machine } from '#store/machines.ts';

/**
 * RUNNING means that it has answered a command. Beside the names of the original (RUNNING, STOPPED, PAUSED,
 * UNKNOWN) there are two for the time before that: PROVISIONING while its disk is made, BOOTING afterwards.
 * A machine that ended by itself is STOPPED, and can be started.
 */
export function stateOf({ state, activity, keeper }: Pick<Machine, 'state' | 'activity' | 'keeper'>): string {
  if (activity === 'creating') return 'PROVISIONING';
  if (activity === 'starting' || activity === 'restarting') return 'BOOTING';
  if (state === 'running') return 'RUNNING';
  if (state === 'paused') return 'PAUSED';
  if (state === 'stopped' || (state === 'failed' && keeper === null)) return 'STOPPED';
  return 'UNKNOWN';
}
