import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { limits } from '#contract/schemas/machines.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { insertSpare, insertTemplate, selectSpares, takeSpare } from '#store/templates.ts';
import { startTestCluster } from '#store/testing.ts';
import { openLocks } from '../locks.ts';
import { limitsToStore } from '../rows.ts';
import { discard } from './jobs.ts';

const pg = await startTestCluster();
after(() => pg.close());
const directory = mkdtempSync(join(tmpdir(), 'carrel-discard-'));
after(() => rmSync(directory, { recursive: true, force: true }));

test('a copy that waited is removed, but not once it is somebody’s machine', async () => {
  const { db } = await pg.freshStore();
  const template = await insertTemplate(db, {
    key: 'k',
    driver: 'qemu',
    image: 'tiny',
    image_hash: 'a'.repeat(64),
    limits: json(limitsToStore(limits.parse({}))),
    state: 'ready',
  });
  const swept: string[] = [];
  const cloud = {
    db,
    locks: openLocks(directory),
    drivers: { qemu: { sweep: async (id: string) => void swept.push(id) } },
  };
  const [first, second] = [
    await transaction(db, (tx) => insertSpare(tx, template.id, 'spare')),
    await transaction(db, (tx) => insertSpare(tx, template.id, 'spare')),
  ];
  await db.updateTable('vm_spares').set({ state: 'ready' }).execute();
  const taken = await transaction(db, (tx) => takeSpare(tx, 'k'));
  assert.equal(taken?.id, first.id);
  await discard(cloud, first.id); // by one who saw it before
  assert.deepEqual(swept, []);
  await discard(cloud, second.id);
  assert.deepEqual(swept, [second.id]);
  assert.deepEqual(await selectSpares(db), []);
});
