/**
 * Machines that had to stop because the host's disk is full: QEMU holds a guest's write that found no room, and the
 * guest with it. They are called `paused`, with the reason, and go on by themselves when there is room again.
 *
 * QEMU's monitor has one client at a time, so nobody listens for its events: it is asked when the disk is nearly full,
 * and else now and then.
 */
import { statfs } from 'node:fs/promises';
import { isCarrelError, messageOf } from '#base/errors.ts';
import { selectOptionalMachine } from '#store/machines.ts';
import { type Cloud, runningOf } from './cloud.ts';
import { failureOf, write } from './confirm.ts';

/** With less than this free, somebody may be waiting for room. */
const scarceBytes = 2 ** 30;
/** With so much free, they go on: more than a moment's writing, or they would stop at once. */
const enoughBytes = 64 * 2 ** 20;
/** How often all are asked though there is room: what was freed a moment later leaves them standing. */
const seldomMs = 30_000;

/** One look, for the one process that reconciles. */
export type LookForStalled = () => Promise<void>;

export function createLookForStalled(cloud: Cloud): LookForStalled {
  let askedAt = Number.NEGATIVE_INFINITY;
  return async () => {
    const { bavail, bsize } = await statfs(cloud.directory);
    const free = bavail * bsize;
    const ask = free < scarceBytes || performance.now() - askedAt > seldomMs;
    const rows = await cloud.db
      .selectFrom('machines')
      .select(['id', 'failure'])
      .where('deleted_at', 'is', null)
      .where('state', 'in', ['running', 'paused'])
      .where('activity', 'is', null)
      .where('asleep', '=', false)
      .where('driver', '=', 'qemu')
      .execute();
    if (ask) askedAt = performance.now();
    for (const { id, failure } of rows) {
      const waits = failure?.code === 'disk_full';
      if (cloud.locks.isBusy(id) || (waits ? free < enoughBytes : !ask)) continue;
      try {
        await look(cloud, id, free >= enoughBytes);
      } catch (error) {
        cloud.log.warn('a machine could not be asked whether it waits for room on the disk', {
          machine: id,
          error: messageOf(error),
        });
      }
    }
  };
}

async function look(cloud: Cloud, id: string, room: boolean): Promise<void> {
  using _lock = await cloud.locks.take(id, { limitMs: 100 });
  const row = await selectOptionalMachine(cloud.db, id);
  if (!row || row.activity !== null || row.asleep || (row.state !== 'running' && row.state !== 'paused'))
    return;
  const machine = await runningOf(cloud, row).catch((error: unknown) => {
    if (isCarrelError(error, 'wrong_state')) return undefined; // it has ended: that is told by others
    throw error;
  });
  if (!machine) return;
  const stalled = await machine.isStalled();
  const waits = row.failure?.code === 'disk_full';
  if (stalled && room && waits) {
    await machine.resume();
    await write(cloud, row, { state: 'running', failure: null }, 'machine.resumed');
  } else if (stalled && !waits) {
    const failure = failureOf(
      'disk_full',
      "the host's disk is full: what the machine wrote found no room, and it waits",
      'make room on the host: it goes on by itself, and nothing is lost',
    );
    await write(cloud, row, { state: 'paused', failure }, 'machine.stalled');
  } else if (!stalled && waits) await write(cloud, row, { failure: null }, 'machine.corrected');
}
