/** The end: the VMM is asked to kick its guest and to report, then there is the plug. */
import { within } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { signalProcess } from '#host/processes.ts';
import type { Kept } from '#isolate/kept.ts';
import { keeperEnd } from '../kept.ts';

/** Ends the machine; resolves when its keeper is gone too, so that it may be started again at once. */
export async function stopMicro(
  kept: Kept,
  directory: string,
  { graceMs }: { graceMs: number },
): Promise<void> {
  if (graceMs > 0) {
    signalProcess({ pid: kept.initPid, startTime: kept.initStartTime }, 'SIGTERM');
    try {
      await within(graceMs, 'the guest to stop', kept.ended());
    } catch (error) {
      if (!isCarrelError(error, 'deadline_exceeded')) throw error;
      await kept.kill();
    }
  } else await kept.kill();
  await keeperEnd(directory);
}
