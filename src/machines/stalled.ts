/**
 * Machines that had to stop because the host's disk is full: QEMU holds a guest's write that found no room, and the
 * guest with it. They are called `paused`, with the reason, and go on by themselves when there is room again. One that
 * somebody has paused, before or after that was noticed, is his: it has no such reason, and waits for him to resume it.
 *
 * QEMU's monitor has one client at a time, so nobody listens for its events: it is asked when the disk is nearly full,
 * and else now and then.
 */
import { statfs } from 'node:fs/promises';
import { isCarrelError, messageOf } from '#base/errors.ts';
import { type Machine as Row, selectOptionalMachine } from '#store/machines.ts';
import type { Cloud } from './cloud.ts';
import { failureOf, write } from './confirm.ts';
import type { RunningMachine } from './driver.ts';

/** With less than this free, somebody may be waiting for room. */
const scarceBytes = 2 ** 30;
/** With so much free, they go on: more than a moment's writing, or they would stop at once. */
const enoughBytes = 64 * 2 ** 20;
/** How often all are asked though there is room: what was freed a moment later leaves them standing. */
const seldomMs = 30_000;

/** One look, for the one process that reconciles. */
export type LookForStalled = () => Promise<void>;

type Parts = Pick<Cloud, 'db' | 'locks' | 'directory' | 'log' | 'changed'> & {
  /** The machine behind a row; `wrong_state` when it does not run. */
  readonly running: (row: Row) => Promise<Pick<RunningMachine, 'isStalled' | 'resume'>>;
};

export function createLookForStalled(cloud: Parts): LookForStalled {
  let askedAt = Number.NEGATIVE_INFINITY;
  return async () => {
    const { bavail, bsize } = await statfs(cloud.directory);
    const free = bavail * bsize;
    const ask = free < scarceBytes || performance.now() - askedAt > seldomMs;
    const rows = await cloud.db
      .selectFrom('machines')
      .select(['id', 'state', 'failure'])
      .where('deleted_at', 'is', null)
      .where('state', 'in', ['running', 'paused'])
      .where('activity', 'is', null)
      .where('asleep', '=', false)
      .where('driver', '=', 'qemu')
      .execute();
    if (ask) askedAt = performance.now();
    for (const row of rows) {
      const { id } = row;
      const waits = waitsForRoom(row);
      if (isPausedBySomebody(row)) continue;
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

type Standing = Pick<Row, 'state' | 'failure'>;

const waitsForRoom = ({ failure }: Standing): boolean => failure?.code === 'disk_full';
const isPausedBySomebody = (row: Standing): boolean => row.state === 'paused' && !waitsForRoom(row);

async function look(cloud: Parts, id: string, room: boolean): Promise<void> {
  using _lock = await cloud.locks.take(id, { limitMs: 100 });
  const row = await selectOptionalMachine(cloud.db, id);
  if (!row || row.activity !== null || row.asleep || (row.state !== 'running' && row.state !== 'paused'))
    return;
  if (isPausedBySomebody(row)) return;
  const machine = await cloud.running(row).catch((error: unknown) => {
    if (isCarrelError(error, 'wrong_state')) return undefined; // it has ended: that is told by others
    throw error;
  });
  if (!machine) return;
  const stalled = await machine.isStalled();
  const waits = waitsForRoom(row);
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
