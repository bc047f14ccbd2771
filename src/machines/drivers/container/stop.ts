/** The end: orderly if there is time, then by force. */
import { within } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import type { Keeper } from '#isolate/machine.ts';
import { keeperEnd } from '../kept.ts';

/** Ends the container; resolves when its keeper is gone too, so that it may be started again at once. */
export async function stopContainer(
  keeper: Keeper,
  directory: string,
  { graceMs }: { graceMs: number },
): Promise<void> {
  if (graceMs > 0) {
    keeper.powerOff();
    try {
      await within(graceMs, 'the machine to power off', keeper.ended());
    } catch (error) {
      if (!isCarrelError(error, 'deadline_exceeded')) throw error;
      await keeper.kill();
    }
  } else await keeper.kill();
  await keeperEnd(directory);
}
