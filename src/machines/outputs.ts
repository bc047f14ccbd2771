/**
 * Programs that go on in a machine and that nobody has read from, when the machine is stopped: where their output is in
 * the machine (a guest's memory) it would go with it.
 */
import { within } from '#base/deadline.ts';
import { isCarrelError, messageOf } from '#base/errors.ts';
import type { Cloud } from './cloud.ts';
import type { Driver, MachineSpec, Terminal } from './driver.ts';

/** A machine that does not answer by then is stopped all the same. */
const limitMs = 3000;

/**
 * Reads along with all programs whose end nobody has been told, until it is let go of; the driver keeps what was read.
 * What cannot be had is lost, as it would be without.
 */
export async function holdOutputs(
  { db, log }: Pick<Cloud, 'db' | 'log'>,
  driver: Driver,
  spec: Pick<MachineSpec, 'id' | 'directory'>,
): Promise<Disposable> {
  const rows = await db
    .selectFrom('execs')
    .select('id')
    .where('machine_id', '=', spec.id)
    .where('ended_at', 'is', null)
    .execute();
  const held: Terminal[] = [];
  let over = false;
  const open = async (id: string): Promise<void> => {
    try {
      const terminal = await driver.openExec(spec, id);
      if (over) terminal.close();
      else held.push(terminal);
    } catch (error) {
      if (!isCarrelError(error)) throw error;
      log.debug('the output of a program could not be kept', {
        machine: spec.id,
        exec: id,
        error: messageOf(error),
      });
    }
  };
  const all = Promise.all(rows.map(({ id }) => open(id)));
  await within(limitMs, 'the output of programs', all).catch((error: unknown) => {
    if (!isCarrelError(error, 'deadline_exceeded')) throw error;
  });
  return {
    [Symbol.dispose]() {
      over = true;
      for (const terminal of held) terminal.close();
    },
  };
}
