/**
 * Machines that do nothing fall asleep: they stay `running`, and are frozen. What is wanted of them wakes them
 * first: a program, a file, a key on the console, a frame from the network. Only figures may be asked for in silence.
 *
 * The row says `asleep` before the machine is frozen, and until after it goes on: a process that dies in between
 * leaves a machine that is called asleep and is not, which the next look corrects.
 */
import { within } from '#base/deadline.ts';
import { messageOf } from '#base/errors.ts';
import type { Stats } from '#contract/schemas/machines.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { type Machine as Row, selectOptionalMachine } from '#store/machines.ts';
import { type Cloud, runningOf } from './cloud.ts';
import type { RunningMachine, Terminal } from './driver.ts';
import { eventOf } from './events.ts';
import type { Figures } from './idleness.ts';
import { changeMachine } from './rows.ts';

/** A machine that does not tell its figures is not kept waiting for. */
const statsMs = 3000;

/** Puts to sleep what has done nothing for long enough. For the one process that reconciles. */
export async function lookForIdle(cloud: Cloud): Promise<void> {
  const rows = await cloud.db
    .selectFrom('machines')
    .select(['id', 'idle_freeze_ms'])
    .where('deleted_at', 'is', null)
    .where('state', '=', 'running')
    .where('activity', 'is', null)
    .where('asleep', '=', false)
    .where('idle_freeze_ms', 'is not', null)
    .execute();
  const present = new Set(rows.map(({ id }) => id));
  for (const id of cloud.idleness.ids()) if (!present.has(id)) cloud.idleness.forget(id);
  await Promise.all(
    rows.map(async ({ id, idle_freeze_ms: patience }) => {
      const machine = cloud.living.get(id);
      if (!machine || patience === null || cloud.locks.isBusy(id)) return;
      try {
        const figures = figuresOf(await within(statsMs, `figures of machine ${id}`, machine.stats()));
        if (cloud.idleness.observe(id, figures, performance.now()) >= patience) await fallAsleep(cloud, id);
      } catch (error) {
        cloud.log.warn('a machine could not be put to sleep', { machine: id, error: messageOf(error) });
      }
    }),
  );
}

function figuresOf({ cpuMs, network }: Stats): Figures {
  return { cpuMs, bytes: network ? network.receivedBytes + network.sentBytes : 0 };
}

async function fallAsleep(cloud: Cloud, id: string): Promise<void> {
  using _lock = await cloud.locks.take(id, { limitMs: 100 });
  const row = await selectOptionalMachine(cloud.db, id);
  const machine = cloud.living.get(id);
  if (row?.state !== 'running' || row.activity !== null || row.asleep || !machine) return;
  if (cloud.idleness.isAtWork(id)) return;
  if (!(await write(cloud, row, true))) return;
  try {
    await listen(cloud, id); // before it sleeps, or a frame could come in between
    await machine.pause();
  } catch (error) {
    await getUp(cloud, id, machine);
    throw error;
  }
  // somebody who saw it awake a moment ago
  if (cloud.idleness.isAtWork(id)) await getUp(cloud, id, machine);
}

/** Wakes the machine if it is asleep. The caller does not hold its lock. */
export async function wake(cloud: Cloud, id: string): Promise<void> {
  cloud.idleness.touch(id);
  using _lock = await cloud.locks.take(id, { limitMs: 20_000 });
  const row = await selectOptionalMachine(cloud.db, id);
  if (row?.asleep) await getUp(cloud, id, await runningOf(cloud, row));
  else stopListening(cloud, id);
}

/** After a restart of the daemon: whoever slept is listened for again. The caller holds the machine's lock. */
export async function listen(cloud: Cloud, id: string): Promise<void> {
  stopListening(cloud, id);
  const ear = await cloud.fabric.onFirstPacket(id, () => {
    wake(cloud, id).catch((error: unknown) =>
      cloud.log.warn('a machine could not be woken', { machine: id, error: messageOf(error) }),
    );
  });
  cloud.sleepers.set(id, ear);
}

function stopListening(cloud: Cloud, id: string): void {
  cloud.sleepers.get(id)?.[Symbol.dispose]();
  cloud.sleepers.delete(id);
}

async function getUp(cloud: Cloud, id: string, machine: RunningMachine): Promise<void> {
  stopListening(cloud, id);
  await machine.resume();
  cloud.idleness.forget(id);
  const row = await selectOptionalMachine(cloud.db, id);
  if (row?.asleep) await write(cloud, row, false);
}

/** False if somebody was faster. */
async function write(cloud: Cloud, row: Row, asleep: boolean): Promise<boolean> {
  const moved = await transaction(cloud.db, async (tx) => {
    // the generation of a row with an activity is its job's: moving it would take the machine away from the job
    if (row.activity === null) {
      const gen = await changeMachine(tx, row, { asleep });
      if (gen !== undefined) {
        await insertEvent(tx, eventOf(row, asleep ? 'machine.asleep' : 'machine.awake', { gen }));
        return true;
      }
    }
    if (asleep) return false;
    await tx.updateTable('machines').set({ asleep }).where('id', '=', row.id).execute();
    return true;
  });
  cloud.changed(row.id);
  return moved;
}

/** A terminal into a machine that may sleep: who types wakes it. */
export function wakingTerminal(cloud: Cloud, id: string, terminal: Terminal): Terminal {
  return {
    read: (from, maxBytes) => terminal.read(from, maxBytes),
    watch: (changed) => terminal.watch(changed),
    async write(bytes) {
      using _work = cloud.idleness.atWork(id);
      if ((await selectOptionalMachine(cloud.db, id))?.asleep) await wake(cloud, id);
      await terminal.write(bytes);
    },
    resize: (size) => terminal.resize(size),
    get end() {
      return terminal.end;
    },
    close: () => terminal.close(),
  };
}
