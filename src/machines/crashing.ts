/**
 * A daemon for the crash test: opens the service, asks for things at random, and waits to be killed.
 * Arguments: the data directory, and the connection to the database as JSON.
 */
import { z } from 'zod';
import { sleep } from '#base/deadline.ts';
import { openFabric } from '#fabric/fabric.ts';
import { openImages } from '#images/store.ts';
import { openStore } from '#store/database.ts';
import { selectOptionalUserByName } from '#store/users.ts';
import type { Verb } from './state.ts';
import { openService, request } from './testing.ts';

const connection = z.strictObject({
  host: z.string(),
  user: z.string(),
  database: z.string(),
});
/** What leads to a state is asked for more often than what leads out of it for good. */
const wishes: readonly Verb[] = [
  'start',
  'start',
  'stop',
  'stop',
  'restart',
  'pause',
  'resume',
  'resume',
  'remove',
];
const machinesAtMost = 6;
/** How often something is asked of a machine's disk first. */
const diskWork = 0.5;
const askersAtOnce = 3;
/** Should nobody kill it. */
const lifeMs = 30_000;

const [dataDirectory = '', connectionText = ''] = process.argv.slice(2);
setTimeout(() => process.exit(3), lifeMs);
const store = openStore({ connection: connection.parse(JSON.parse(connectionText)) });
const { machines } = await openService({
  store,
  fabric: await openFabric(),
  images: await openImages(),
  dataDirectory,
  leaseMs: 800,
});
const user = await selectOptionalUserByName(store.db, 'crash');
if (!user) throw new Error('the test has not made its user');
const actor = { id: user.id, name: user.name, admin: true };
process.stdout.write('ready\n');

const pick = <T>(from: readonly T[]): T | undefined => from[Math.floor(Math.random() * from.length)];

async function askOfDisk(id: string, count: number): Promise<void> {
  const dice = Math.random();
  const name = `s${Math.random().toString(36).slice(2, 10)}`;
  const snapshot = pick(await machines.snapshots(id));
  if (dice < 0.4) await machines.snapshot(actor, id, name);
  else if (dice < 0.6) await machines.dropSnapshot(actor, id, snapshot?.id ?? name);
  else if (dice < 0.8) await machines.restore(actor, id, snapshot?.id ?? name);
  else if (count < machinesAtMost)
    await machines.clone(actor, id, {
      name,
      start: dice < 0.95,
      ...(snapshot && dice < 0.9 ? { snapshot: snapshot.name } : {}),
    });
}

async function ask(): Promise<void> {
  const { items } = await machines.list(actor);
  if (items.length < machinesAtMost && Math.random() < 0.5)
    await machines.create(actor, request({ name: `c${Math.random().toString(36).slice(2, 10)}` }));
  else {
    const machine = pick(items);
    if (machine && Math.random() < diskWork) await askOfDisk(machine.id, items.length);
    const verb = pick(wishes);
    if (machine && verb) await machines.verb(actor, machine.id, verb, { graceMs: 50 });
  }
}

await Promise.all(
  Array.from({ length: askersAtOnce }, async () => {
    for (;;) {
      await ask().catch(() => undefined); // refusals are part of it
      await sleep(Math.random() * 30);
    }
  }),
);
