/** Machines that are made for one piece of work. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { sql } from 'kysely';
import type { Actor } from '#base/actor.ts';
import { until } from '#base/deadline.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import { type ServiceBed, skip, useBed } from './service-bed.ts';
import { tryShell } from './testing-shell.ts';
import { type Bed, openService } from './testing.ts';

let bed: Bed;
let anna: Actor;
let assertNothingLeft: ServiceBed['assertNothingLeft'];
useBed((opened) => {
  ({ bed, anna, assertNothingLeft } = opened);
});

const sh = (id: string, script: string, limitMs?: number) => tryShell(bed.machines, id, script, limitMs);

test(
  'a fresh machine lives for one piece of work, and its owner can neither see nor reach it',
  { skip },
  async () => {
    const [helper, other] = [await bed.make(anna), await bed.make(anna)];
    const { address } = await bed.machines.get(other);
    assert.match((await sh(helper, `ping -c1 -W1 ${address}; echo`)).out, / 0% packet loss/);
    const out = await bed.machines.withFreshMachine(
      {
        image: 'busybox',
        ownerId: anna.id,
        submissionId: 's-000000000000',
        limits: { diskBytes: 32 * 2 ** 20 },
      },
      async (machine) => {
        assert.equal((await bed.machines.list(anna)).items.length, 2);
        await machine.writeFile('/root/in', Buffer.from('42'), { mode: 0o600 });
        assert.match((await sh(helper, `ping -c1 -W1 ${machine.address}; echo`)).out, /100% packet loss/);
        const reply = await machine.run(runRequest.parse({ argv: ['cat', '/root/in'] }));
        return Buffer.from(reply.stdout, 'base64').toString();
      },
    );
    assert.equal(out, '42');
    for (const id of [helper, other]) await bed.done(bed.machines.remove(anna, id));
    await assertNothingLeft();
    assert.deepEqual(readdirSync(join(bed.dataDirectory, 'run', 'machine-locks')).length, 0);
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
      const { db } = bed.store;
      let made = '';
      await bed.suspend(); // in one process it would take the machine for one of its own
      {
        await using service = await openService({
          store: bed.store,
          fabric: bed.fabric,
          images: bed.images,
          dataDirectory: bed.dataDirectory,
          reconciles,
        });
        await sql`create function refuse() returns trigger language plpgsql as
        $$ begin raise exception 'the database is away'; end $$`.execute(db);
        await service.machines.withFreshMachine(
          {
            image: 'busybox',
            ownerId: anna.id,
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
      await bed.resume();
      assert.ok(!readdirSync(join(bed.dataDirectory, 'machines')).includes(made));
    },
  );
