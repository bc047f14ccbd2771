/** Templates through the service, with the real QEMU and the image `tiny`. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '#base/deadline.ts';
import type { Actor } from '#base/actor.ts';
import { type NewMachine, newMachine, runRequest } from '#contract/schemas/machines.ts';
import { waitForJob } from '#jobs/wait.ts';
import { skip } from '../drivers/qemu/testing.ts';
import { type Bed, startBed } from '../testing.ts';
import { startVictim } from '../victim.ts';

/** A guest under emulation, on a host with other things to do. */
const patienceMs = 120_000;
const limits = { cpus: 1, memoryBytes: 128 * 2 ** 20 };

let bed: Bed;
let actor: Actor;
before(async () => {
  if (skip) return;
  bed = await startBed();
  await bed.images.ensure('tiny');
  actor = await bed.user('ada', { admin: true });
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
});

let counter = 0;
function wish(more: Partial<NewMachine> = {}): NewMachine {
  counter += 1;
  return { ...newMachine.parse({ name: `v${counter}`, image: 'tiny', driver: 'qemu', limits }), ...more };
}

async function done(jobId: string): Promise<void> {
  const job = await waitForJob(bed.store, jobId, { limitMs: patienceMs, pollMs: 200 });
  assert.equal(job.state, 'done', JSON.stringify(job.error));
}

async function make(wanted = wish()): Promise<string> {
  const { machineId, job } = await bed.machines.create(actor, wanted);
  await done(job.id);
  const { stdout } = await bed.machines.run(
    machineId,
    runRequest.parse({ argv: ['/bin/hostname'], limitMs: 60_000 }),
  );
  assert.equal(Buffer.from(stdout, 'base64').toString().trim(), wanted.name);
  return machineId;
}

const startedFrom = async (id: string): Promise<string | undefined> =>
  (await bed.machines.get(id)).runtime?.startedFrom;
const remove = async (id: string): Promise<void> => done((await bed.machines.remove(actor, id)).job.id);
const park = async (ready?: number) =>
  bed.machines.templates.park(actor, { image: 'tiny', limits, ...(ready === undefined ? {} : { ready }) });
const only = async () => {
  const [template, ...more] = await bed.machines.templates.list();
  assert.ok(template);
  assert.deepEqual(more, []);
  return template;
};
const directories = (): string[] => readdirSync(join(bed.dataDirectory, 'machines'));

test(
  'parking that is killed in the middle is done again by the next worker, and nothing of the first try is left',
  { skip },
  async () => {
    await bed.suspend();
    await using worker = await startVictim(bed, { leaseMs: 2000, reconciles: false });
    const { templateId, job } = await park();
    await until(
      patienceMs,
      'the machine to boot',
      async () => {
        const row = await bed.store.db
          .selectFrom('jobs')
          .select('step')
          .where('id', '=', job.id)
          .executeTakeFirst();
        return row?.step === 'wait until it is idle' ? true : undefined;
      },
      { everyMs: 20 },
    );
    await worker.kill();
    const [first] = directories();
    assert.ok(first !== undefined);
    await bed.resume();
    await done(job.id);
    const template = await only();
    assert.deepEqual(
      [template.id, template.state, template.kept, template.waiting],
      [templateId, 'ready', true, 0],
    );
    assert.equal(existsSync(join(bed.dataDirectory, 'machines', first)), false);
    assert.deepEqual(directories(), []);
    assert.equal(readdirSync(join(bed.dataDirectory, 'templates')).length, 1);
  },
);

test('new machines of that image and size are copies; others boot', { skip }, async () => {
  const id = await make();
  assert.equal(await startedFrom(id), 'template');
  const other = await make(wish({ limits: { ...wish().limits, memoryBytes: 160 * 2 ** 20 } }));
  assert.equal(await startedFrom(other), 'image');
  await Promise.all([remove(id), remove(other)]);
});

test(
  'asking again makes no second one, and says how many copies shall wait; one that waits becomes the machine',
  { skip },
  async () => {
    const { job } = await park(2);
    await done(job.id);
    await until(patienceMs, 'copies to wait', async () => ((await only()).waiting === 2 ? true : undefined), {
      everyMs: 100,
    });
    const waiting = directories();
    assert.equal(waiting.length, 2);
    const [first, second] = await Promise.all([make(), make()]);
    assert.deepEqual([first, second].toSorted(), waiting.toSorted());
    assert.deepEqual(await Promise.all([first, second].map(startedFrom)), ['template', 'template']);
    await until(patienceMs, 'others to wait', async () => ((await only()).waiting === 2 ? true : undefined), {
      everyMs: 100,
    });
    await Promise.all([remove(first), remove(second)]);
  },
);

test('a removed template takes those that wait along, and no machine', { skip }, async () => {
  const id = await make();
  await bed.machines.templates.remove(actor, (await only()).id);
  await until(
    patienceMs,
    'all of it to be gone',
    async () =>
      (await bed.machines.templates.list()).length === 0 && directories().length === 1 ? true : undefined,
    { everyMs: 100 },
  );
  assert.deepEqual(readdirSync(join(bed.dataDirectory, 'templates')), []);
  const { end } = await bed.machines.run(id, runRequest.parse({ argv: ['/bin/true'], limitMs: 60_000 }));
  assert.deepEqual(end, { kind: 'exited', status: 0 });
  await remove(id);
  assert.deepEqual(directories(), []);
  assert.deepEqual(await bed.store.db.selectFrom('vm_spares').select('id').execute(), []);
});
