/** What becomes of templates by themselves: made, out of date, too many; and of the copies that wait when daemons die. */
import assert from 'node:assert/strict';
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { sleep, until } from '#base/deadline.ts';
import type { Actor } from '#base/actor.ts';
import type { Template } from '#contract/schemas/templates.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import { readLockNote } from '#host/flock.ts';
import { isAlive, signalProcess } from '#host/processes.ts';
import { type Images, openImages } from '#images/store.ts';
import { keptPaths } from '#isolate/kept.ts';
import { waitForJob } from '#jobs/wait.ts';
import { skip } from '../drivers/qemu/testing.ts';
import { type Bed, request, startBed } from '../testing.ts';
import { startVictim } from '../victim.ts';

/** A guest under emulation, on a host with other things to do. */
const patienceMs = 120_000;
const small = 128 * 2 ** 20;
const larger = 144 * 2 ** 20;

let bed: Bed;
let actor: Actor;
let cache: string;
let images: Images;
before(async () => {
  if (skip) return;
  // of its own, because an image of it gets a new meaning
  cache = mkdtempSync(join(tmpdir(), 'carrel-cache-'));
  const { directory, hash } = await (await openImages()).ensure('tiny');
  images = await openImages({ cache });
  cpSync(directory, join(images.layout.images, hash), { recursive: true });
  bed = await startBed({ images });
  actor = await bed.user('ada', { admin: true });
});
after(async () => {
  await bed?.[Symbol.asyncDispose]();
  if (cache) rmSync(cache, { recursive: true, force: true });
});

async function done(jobId: string): Promise<void> {
  const job = await waitForJob(bed.store, jobId, { limitMs: patienceMs, pollMs: 100 });
  assert.equal(job.state, 'done', JSON.stringify(job.error));
}

/** A machine that answers; gives its id. */
async function make(memoryBytes = small): Promise<string> {
  const wanted = request({
    driver: 'qemu',
    image: 'tiny',
    limits: { cpus: 1, memoryBytes, processes: 64, diskBytes: 300 * 2 ** 20 },
  });
  const { machineId, job } = await bed.machines.create(actor, wanted);
  await done(job.id);
  const { stdout } = await bed.machines.run(machineId, runRequest.parse({ argv: ['hostname'], cwd: '/' }));
  assert.equal(Buffer.from(stdout, 'base64').toString().trim(), wanted.name);
  return machineId;
}

const startedFrom = async (id: string) => (await bed.machines.get(id)).runtime?.startedFrom;
const remove = async (id: string): Promise<void> => done((await bed.machines.remove(actor, id)).job.id);
const list = (): Promise<Template[]> => bed.machines.templates.list();
const directories = (): string[] => readdirSync(join(bed.dataDirectory, 'machines'));

/** All that are whole, when there are as many and nothing else is going on. */
async function settled(count: number): Promise<Template[]> {
  return until(
    patienceMs,
    `${count} templates`,
    async () => {
      const all = await list();
      for (const { failure } of all) assert.equal(failure, null);
      return all.length === count && all.every(({ state }) => state === 'ready') ? all : undefined;
    },
    { everyMs: 100 },
  );
}

async function waiting(count: number): Promise<void> {
  await until(
    patienceMs,
    `${count} copies to wait`,
    async () => ((await list())[0]?.waiting === count ? true : undefined),
    { everyMs: 100 },
  );
}

/** The processes of copies that wait, by machine. */
const keepers = (): Map<string, string | undefined> =>
  new Map(
    directories().map((id) => [id, readLockNote(keptPaths(join(bed.dataDirectory, 'machines', id)).lock)]),
  );

test(
  'what a machine booted from is parked unasked, once: a template that was removed stays away',
  { skip },
  async () => {
    await bed.suspend();
    await bed.resume({ templates: { automatic: true } });
    const first = await make();
    assert.equal(await startedFrom(first), 'image');
    const [template] = await settled(1);
    assert.deepEqual(
      [template?.kept, template?.image, template?.limits],
      [false, 'tiny', { cpus: 1, memoryBytes: small }],
    );
    const second = await make();
    assert.equal(await startedFrom(second), 'template');
    await bed.machines.templates.remove(actor, template?.id ?? '');
    await settled(0);
    await sleep(2500); // it is looked at every half second
    assert.deepEqual(await list(), [], 'the machines that are there do not bring it back');
    const third = await make();
    assert.equal(await startedFrom(third), 'image');
    await settled(1);
    for (const id of [first, second, third]) await remove(id);
  },
);

test(
  'where there is no room for both, the one that was not used for longest goes, and stays away',
  { skip },
  async () => {
    const [old] = await settled(1);
    assert.ok(old?.bytes);
    const machine = await make(larger);
    const [fresh] = await settled(2);
    assert.ok(fresh?.bytes && fresh.id !== old.id);
    await bed.suspend();
    await bed.resume({ templates: { automatic: true, maxBytes: old.bytes + fresh.bytes - 1 } });
    const [left] = await settled(1);
    assert.equal(left?.id, fresh.id);
    assert.equal(readdirSync(join(bed.dataDirectory, 'templates')).length, 1);
    await sleep(2500);
    assert.equal((await list()).length, 1);
    await bed.machines.templates.remove(actor, fresh.id);
    await settled(0);
    await remove(machine);
  },
);

test(
  'one that somebody asked for is made anew when it is damaged, and when its image is another one',
  { skip },
  async () => {
    await bed.suspend();
    await bed.resume();
    const { job, templateId } = await bed.machines.templates.park(actor, {
      image: 'tiny',
      limits: { cpus: 1, memoryBytes: small },
    });
    await done(job.id);
    await bed.suspend();
    const [key = ''] = readdirSync(join(bed.dataDirectory, 'templates'));
    rmSync(join(bed.dataDirectory, 'templates', key, 'template.json'));
    await bed.resume();
    const again = await until(
      patienceMs,
      'another one of the same image',
      async () => (await list()).find(({ id, state }) => id !== templateId && state === 'ready'),
      { everyMs: 100 },
    );
    assert.deepEqual([again.kept, again.image], [true, 'tiny']);

    await bed.suspend();
    const now = rebuilt();
    await bed.resume();
    const newer = await until(
      patienceMs,
      'another one of the other image',
      async () => (await list()).find(({ imageHash, state }) => imageHash === now && state === 'ready'),
      { everyMs: 100 },
    );
    assert.equal(newer.kept, true);
    await settled(1);
    const machine = await make();
    assert.equal(await startedFrom(machine), 'template');
    await remove(machine);
  },
);

/** The name `tiny` means another image from now on, and the one before is gone; gives the hash. */
function rebuilt(): string {
  const [old = ''] = readdirSync(images.layout.images);
  const hash = `${old.startsWith('0') ? '1' : '0'}${old.slice(1)}`;
  const path = join(images.layout.images, hash, 'image.json');
  renameSync(join(images.layout.images, old), join(images.layout.images, hash));
  writeFileSync(path, readFileSync(path, 'utf8').replaceAll(old, hash));
  return hash;
}

test(
  'copies that wait outlive the daemon, and one that has died meanwhile is replaced',
  { skip },
  async () => {
    const limits = { cpus: 1, memoryBytes: small };
    await bed.machines.templates.park(actor, { image: 'tiny', limits, ready: 2 });
    await settled(1);
    await waiting(2);
    const before = keepers();
    assert.equal(before.size, 2);
    await bed.suspend();
    await bed.resume();
    await sleep(1500);
    assert.deepEqual(keepers(), before, 'the same two');

    await bed.suspend();
    const [[dead = '', note = ''] = []] = before;
    const [pid = '', startTime = ''] = note.trim().split(' ');
    signalProcess({ pid: Number(pid), startTime }, 'SIGKILL');
    await until(patienceMs, 'it to end', () => (isAlive({ pid: Number(pid), startTime }) ? undefined : true));
    await bed.resume();
    await until(patienceMs, 'it to be removed', () => (directories().includes(dead) ? undefined : true), {
      everyMs: 100,
    });
    await waiting(2);
    const ids = await Promise.all([make(), make()]);
    for (const id of ids) {
      const { runtime } = await bed.machines.get(id);
      assert.equal(runtime?.startedFrom, 'template', runtime?.note ?? '');
    }
    assert.deepEqual(
      ids.filter((id) => before.has(id)),
      [...before.keys()].filter((id) => id !== dead),
    );
    for (const id of ids) await remove(id);
    await waiting(2);
  },
);

test(
  'whenever the daemon dies while it makes them, the next one has as many as it shall have',
  { skip },
  async () => {
    const limits = { cpus: 1, memoryBytes: small };
    await bed.machines.templates.park(actor, { image: 'tiny', limits });
    const [template] = await settled(1);
    assert.ok(template);
    for (let round = 0; round < 5; round += 1) {
      await bed.machines.templates.park(actor, { image: 'tiny', limits, ready: 0 });
      await until(patienceMs, 'none to wait', () => (directories().length === 0 ? true : undefined), {
        everyMs: 50,
      });
      await bed.suspend();
      await using daemon = await startVictim(bed);
      await bed.machines.templates.park(actor, { image: 'tiny', limits, ready: 2 });
      await sleep(Math.random() * 2500);
      await daemon.kill();
      await bed.resume();
      await waiting(2);
      assert.equal(directories().length, 2);
    }
    const machine = await make();
    assert.equal(await startedFrom(machine), 'template');
    await remove(machine);
    await bed.machines.templates.remove(actor, template.id);
    await settled(0);
    assert.deepEqual(directories(), []);
  },
);

test(
  'one that is wanted and could not be made says why, and is tried again by itself',
  { skip },
  async () => {
    const before = await list();
    // where templates lie there is no directory
    const place = join(bed.dataDirectory, 'templates');
    mkdirSync(place, { recursive: true });
    renameSync(place, `${place}.away`);
    writeFileSync(place, '');
    const wanted = { image: 'tiny', limits: { cpus: 1, memoryBytes: 160 * 2 ** 20 } };
    const { templateId, job } = await bed.machines.templates.park(actor, wanted);
    const now = async (): Promise<Template | undefined> => (await list()).find(({ id }) => id === templateId);
    const failed = await waitForJob(bed.store, job.id, { limitMs: patienceMs, pollMs: 100 });
    assert.equal(failed.state, 'failed');
    const seen = await now();
    assert.equal(seen?.state, 'failed');
    assert.ok(seen.failure?.message);
    rmSync(place);
    renameSync(`${place}.away`, place);
    await sleep(2000); // several looks
    assert.equal((await now())?.state, 'failed', 'not at once');
    await bed.store.db
      .updateTable('jobs')
      .set({ ended_at: new Date(Date.now() - 3 * 60_000) })
      .where('id', '=', job.id)
      .execute();
    await until(
      patienceMs,
      'it to be made',
      async () => {
        const template = await now();
        return template?.state === 'ready' && template.failure === null ? true : undefined;
      },
      { everyMs: 100 },
    );
    await bed.machines.templates.remove(actor, templateId);
    await settled(before.length);
  },
);
