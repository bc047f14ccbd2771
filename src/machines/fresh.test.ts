/** Machines that are made for one piece of work. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { sql } from 'kysely';
import { until } from '#base/deadline.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import { skip, useBed } from './testing-bed.ts';
import { openService } from './testing.ts';

const on = useBed();

test(
  'a fresh machine lives for one piece of work, and its owner can neither see nor reach it',
  { skip },
  async () => {
    const [helper, other] = [await on.bed.make(on.anna), await on.bed.make(on.anna)];
    const { address } = await on.bed.machines.get(other);
    assert.match((await on.sh(helper, `ping -c1 -W1 ${address}; echo`)).out, / 0% packet loss/);
    const out = await on.bed.machines.withFreshMachine(
      {
        image: 'busybox',
        ownerId: on.anna.id,
        submissionId: 's-000000000000',
        limits: { diskBytes: 32 * 2 ** 20 },
      },
      async (machine) => {
        assert.equal((await on.bed.machines.list(on.anna)).items.length, 2);
        await machine.writeFile('/root/in', Buffer.from('42'), { mode: 0o600 });
        assert.match((await on.sh(helper, `ping -c1 -W1 ${machine.address}; echo`)).out, /100% packet loss/);
        const reply = await machine.run(runRequest.parse({ argv: ['cat', '/root/in'] }));
        return Buffer.from(reply.stdout, 'base64').toString();
      },
    );
    assert.equal(out, '42');
    for (const id of [helper, other]) await on.bed.done(on.bed.machines.remove(on.anna, id));
    await on.assertNothingLeft();
    assert.deepEqual(readdirSync(join(on.bed.dataDirectory, 'run', 'machine-locks')).length, 0);
    await pause(1);
  },
);

for (const [who, reconciles] of [
  ['the daemon', true],
  ['a worker', false],
] as const)
  test(
    `a machine for one piece of work that ${who} could not remove is removed as soon as it can be`,
    { skip },
    async () => {
      const { db } = on.bed.store;
      let made = '';
      await on.bed.suspend(); // in one process it would take the machine for one of its own
      {
        await using service = await openService({
          store: on.bed.store,
          fabric: on.bed.fabric,
          images: on.bed.images,
          dataDirectory: on.bed.dataDirectory,
          reconciles,
        });
        await sql`create function refuse() returns trigger language plpgsql as
        $$ begin raise exception 'the database is away'; end $$`.execute(db);
        await service.machines.withFreshMachine(
          {
            image: 'busybox',
            ownerId: on.anna.id,
            submissionId: 's-000000000001',
            limits: { diskBytes: 32 * 2 ** 20 },
          },
          async (machine) => {
            made = machine.id;
            await sql`create trigger refuse before update on machines execute function refuse()`.execute(db);
          },
        );
        const left = await db
          .selectFrom('machines')
          .select(['id', 'state'])
          .where('submission_id', 'is not', null)
          .where('deleted_at', 'is', null)
          .execute();
        assert.deepEqual(left, [{ id: made, state: 'running' }]);
        await sql`drop function refuse cascade`.execute(db);
        await until(15_000, 'the machine to be removed', async () =>
          (await db.selectFrom('machines').select('deleted_at').where('id', '=', made).executeTakeFirst())
            ?.deleted_at
            ? true
            : undefined,
        );
      }
      await on.bed.resume();
      assert.ok(!readdirSync(join(on.bed.dataDirectory, 'machines')).includes(made));
    },
  );
