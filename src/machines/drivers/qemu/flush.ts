/** Before a disk is kept as it is: what its guest still holds in memory is brought to it. */
import { isLocked } from '#host/flock.ts';
import { keptPaths } from '#isolate/kept.ts';
import type { Agents } from './agents.ts';
import { runState, withQmp } from './qmp.ts';
import { readRuntime } from './runtime.ts';

/** A guest that writes without end, or does not answer, holds nobody up for longer. */
const flushMs = 10_000;

/** Never fails: what is kept of a guest that cannot be asked is as after a power cut, and so as good as a disk can be. */
export async function flushGuest(directory: string, agents: Agents): Promise<void> {
  if (!isLocked(keptPaths(directory).lock)) return;
  try {
    if (!(await readRuntime(directory))?.agent) return;
    const { status } = await withQmp(directory, (qmp) => qmp.execute('query-status', {}, runState));
    if (status !== 'running') return; // its processors are stopped
    await agents.use(directory, (agent) => agent.sync({ limitMs: flushMs }), { limitMs: flushMs });
  } catch {
    // it is ending, or says nothing
  }
}
