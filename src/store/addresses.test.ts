/** Addresses and ranges, which parallel transactions share out. */
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import * as fc from 'fast-check';
import { gatewayOfNumber, numbered } from '#base/numbered.ts';
import { allocateAddress, releaseAddresses } from './addresses.ts';
import { transaction } from './database.ts';
import { allocateUidSlot, insertMachine, updateMachine } from './machines.ts';
import { deleteNetwork, insertNetwork, lockEmptyNetwork, selectNetworkByName } from './networks.ts';
import { makeLab } from './testing-rows.ts';
import { startTestCluster } from './testing.ts';

const pg = await startTestCluster();
after(() => pg.close());

test('50 parallel machines get the 50 lowest addresses and id ranges, and freed ones are given again', async () => {
  const { db } = await pg.freshStore();
  const { user } = await makeLab(db);
  const network = await selectNetworkByName(db);
  let runs = 0;
  const made = await Promise.all(
    Array.from({ length: 50 }, (_, n) =>
      transaction(db, async (tx) => {
        runs += 1;
        const facts = { name: `m${n}`, owner_id: user.id, driver: 'container', network_id: network.id };
        const machine = await insertMachine(tx, facts);
        const slot = await allocateUidSlot(tx, machine.id);
        const address = await allocateAddress(tx, network.id, machine.id);
        return { id: machine.id, address, slot };
      }),
    ),
  );
  assert.equal(runs, 50, 'they wait for each other, and none is done again after a deadlock');
  const numbers = made.map(({ address }) => Number(address.split('.')[3])).sort((a, b) => a - b);
  assert.deepEqual(
    numbers,
    Array.from({ length: 50 }, (_, n) => n + 2),
  );
  assert.deepEqual(
    made.map(({ slot }) => slot).sort((a, b) => a - b),
    Array.from({ length: 50 }, (_, n) => n),
  );
  const middle = made.find(({ address }) => address === '192.168.0.20');
  assert.ok(middle);
  await releaseAddresses(db, middle.id);
  await updateMachine(db, middle.id, { uid_slot: null });
  const again = made.find(({ address }) => address === '192.168.0.7');
  assert.ok(again);
  const kept = await transaction(db, (tx) => allocateAddress(tx, network.id, again.id));
  assert.equal(kept, '192.168.0.7');
  const fresh = await insertMachine(db, { name: 'fresh', owner_id: user.id, driver: 'container' });
  assert.equal(await transaction(db, (tx) => allocateAddress(tx, network.id, fresh.id)), '192.168.0.20');
  assert.equal(await transaction(db, (tx) => allocateUidSlot(tx, fresh.id)), middle.slot);
  assert.equal(await transaction(db, (tx) => allocateUidSlot(tx, fresh.id)), middle.slot);
});

test('addresses are the lowest free ones in any order of taking and freeing, until the network is full', async () => {
  const { db } = await pg.freshStore();
  const { user } = await makeLab(db);
  // .0 network, .1 gateway, .2 to .14 for machines, .15 broadcast
  const network = await transaction(db, (tx) =>
    insertNetwork(tx, { name: 'small', cidr: '10.9.0.16/28', gateway: '10.9.0.17' }),
  );
  const last = 16 + 14;
  // a smaller network inside, whose four addresses are its own
  await db
    .insertInto('networks')
    .values({ id: 'n-inner', name: 'inner', bridge: 'b-inner', cidr: '10.9.0.20/30', gateway: '10.9.0.21' })
    .execute();
  const foreign = new Set([20, 21, 22, 23]);
  const taken = new Map<number, string>();
  let count = 0;
  const property = fc.asyncProperty(fc.array(fc.nat(40), { maxLength: 40 }), async (choices) => {
    for (const choice of choices) {
      const victim = [...taken][choice];
      if (victim) {
        await releaseAddresses(db, victim[1]);
        taken.delete(victim[0]);
        continue;
      }
      count += 1;
      const machine = await insertMachine(db, { name: `m${count}`, owner_id: user.id, driver: 'container' });
      let lowest = 18;
      while (taken.has(lowest) || foreign.has(lowest)) lowest += 1;
      const address = transaction(db, (tx) => allocateAddress(tx, network.id, machine.id));
      if (lowest > last) await assert.rejects(address, { code: 'no_capacity' });
      else {
        assert.equal(await address, `10.9.0.${lowest}`);
        taken.set(lowest, machine.id);
      }
    }
  });
  await fc.assert(property, { numRuns: 15 });
});

test('in the routed layout a machine gets the number it asks for, or the lowest free one', async () => {
  const { db } = await pg.freshStore();
  const { user } = await makeLab(db);
  const values = {
    name: 'numbered',
    cidr: numbered.cidr,
    gateway: gatewayOfNumber(numbered.first),
    layout: 'routed' as const,
  };
  const network = await transaction(db, (tx) => insertNetwork(tx, values));
  let count = 0;
  const taken = new Map<number, string>();
  const property = fc.asyncProperty(
    fc.array(
      fc.record({
        number: fc.option(fc.integer({ min: -1, max: 9 }), { nil: undefined }),
        free: fc.boolean(),
      }),
      {
        maxLength: 30,
      },
    ),
    async (steps) => {
      for (const { number, free } of steps) {
        const [victim] = taken;
        if (free && victim) {
          await releaseAddresses(db, victim[1]);
          taken.delete(victim[0]);
          continue;
        }
        count += 1;
        const { id } = await insertMachine(db, { name: `r${count}`, owner_id: user.id, driver: 'qemu' });
        let wanted = number ?? numbered.first;
        if (number === undefined) while (taken.has(wanted)) wanted += 1;
        const address = transaction(db, (tx) => allocateAddress(tx, network.id, id, { number }));
        if (wanted < numbered.first) await assert.rejects(address, { code: 'validation_failed' });
        else if (taken.has(wanted)) await assert.rejects(address, { code: 'name_taken' });
        else {
          assert.equal(await address, `192.168.${200 + wanted}.2`);
          taken.set(wanted, id);
        }
      }
    },
  );
  await fc.assert(property, { numRuns: 15 });
  const { id } = await insertMachine(db, { name: 'other', owner_id: user.id, driver: 'qemu' });
  const other = await selectNetworkByName(db);
  assert.equal(await transaction(db, (tx) => allocateAddress(tx, other.id, id)), '192.168.0.2');
  const numberless = transaction(db, (tx) => allocateAddress(tx, other.id, id, { number: 3 }));
  await assert.rejects(numberless, { code: 'validation_failed' });
});

test('no two networks share a range, but the numbered one lies inside the default one', async () => {
  const { db } = await pg.freshStore();
  const { user } = await makeLab(db);
  const make = (values: Parameters<typeof insertNetwork>[1]) =>
    transaction(db, (tx) => insertNetwork(tx, values));
  await assert.rejects(make({ name: 'inside', cidr: '192.168.7.0/24', gateway: '192.168.7.1' }), {
    code: 'name_taken',
  });
  const lab = await make({ name: 'lab', cidr: '10.9.0.0/24', gateway: '10.9.0.1' });
  await assert.rejects(make({ name: 'lab', cidr: '10.9.1.0/24', gateway: '10.9.1.1' }), /"lab" already/);
  await assert.rejects(make({ name: 'around', cidr: '10.0.0.0/8', gateway: '10.0.0.1' }), /overlaps/);
  const machine = await insertMachine(db, {
    name: 'm',
    owner_id: user.id,
    driver: 'qemu',
    network_id: lab.id,
  });
  await assert.rejects(
    transaction(db, (tx) => lockEmptyNetwork(tx, 'lab')),
    { code: 'wrong_state' },
  );
  await updateMachine(db, machine.id, { deleted_at: new Date() });
  await transaction(db, async (tx) => deleteNetwork(tx, (await lockEmptyNetwork(tx, 'lab')).id));
  await assert.rejects(selectNetworkByName(db, 'lab'), { code: 'not_found' });
  await assert.rejects(
    transaction(db, (tx) => lockEmptyNetwork(tx, 'default')),
    { code: 'wrong_state' },
  );

  const shape = {
    cidr: numbered.cidr,
    gateway: gatewayOfNumber(numbered.first),
    layout: 'routed' as const,
  };
  const home = await selectNetworkByName(db);
  const early = await insertMachine(db, { name: 'early', owner_id: user.id, driver: 'qemu' });
  await db
    .insertInto('addresses')
    .values({ network_id: home.id, address: '192.168.201.2', machine_id: early.id })
    .execute();
  await assert.rejects(make({ name: 'numbered', ...shape }), { code: 'wrong_state' });
  await releaseAddresses(db, early.id);
  await make({ name: 'numbered', ...shape });
  await assert.rejects(make({ name: 'again', ...shape }), { code: 'name_taken' });
});
