/** What is done about machines that wait for room, and what is not: rows of a real database, machines that say they wait. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { silent } from '#base/log.ts';
import { json } from '#store/columns.ts';
import { insertMachine, selectMachine } from '#store/machines.ts';
import { startTestCluster } from '#store/testing.ts';
import { insertUser } from '#store/users.ts';
import { openLocks } from './locks.ts';
import { createLookForStalled } from './stalled.ts';

const pg = await startTestCluster();
after(() => pg.close());
const directory = mkdtempSync(join(tmpdir(), 'carrel-stalled-'));
after(() => rmSync(directory, { recursive: true, force: true }));

test('what somebody has paused stays paused, though it waits for room as well', async () => {
  const { db } = await pg.freshStore();
  const { id: owner } = await insertUser(db, { name: 'anna' });
  const make = async (name: string, state: 'running' | 'paused', code?: 'disk_full'): Promise<string> => {
    const failure = code && json({ code, message: 'full', at: new Date().toISOString() });
    const values = { name, owner_id: owner, driver: 'qemu', state, ...(failure && { failure }) };
    return (await insertMachine(db, values)).id;
  };
  const [unnoticed, waiting, pausedBefore] = [
    await make('unnoticed', 'running'),
    await make('waiting', 'paused', 'disk_full'),
    await make('paused-before-anybody-noticed', 'paused'),
  ];
  const resumed: string[] = [];
  const look = (): Promise<void> =>
    createLookForStalled({
      db,
      directory,
      log: silent,
      locks: openLocks(join(directory, 'locks')),
      changed: () => undefined,
      running: async ({ id }) => ({
        isStalled: async () => !resumed.includes(id),
        resume: async () => void resumed.push(id),
      }),
    })();
  const standing = async (id: string): Promise<unknown> => {
    const { state, failure } = await selectMachine(db, id);
    return [state, failure?.code];
  };

  await look();
  assert.deepEqual(await standing(unnoticed), ['paused', 'disk_full']);
  assert.deepEqual(await standing(waiting), ['running', undefined]);
  assert.deepEqual(await standing(pausedBefore), ['paused', undefined]);
  await look();
  assert.deepEqual(await standing(unnoticed), ['running', undefined]);
  assert.deepEqual(await standing(pausedBefore), ['paused', undefined]);
  assert.deepEqual(resumed, [waiting, unnoticed]);
});
