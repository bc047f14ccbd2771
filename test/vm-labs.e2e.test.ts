/**
 * A lab of virtual machines in a real cloud: what waits for students, the machine they open, and a grader that is killed
 * while it grades in one.
 */
import assert from 'node:assert/strict';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { until } from '#base/deadline.ts';
import { collectFiles, pack } from '#cli/archive.ts';
import type { Client } from '#contract/client.ts';
import type { Machine } from '#contract/schemas/machines.ts';
import type { Template } from '#contract/schemas/templates.ts';
import { openImages } from '#images/store.ts';
import { type Cloud, startCloud, whyNoCloud } from './harness/cloud.ts';

const skip = whyNoCloud() ?? (existsSync('/usr/bin/qemu-system-x86_64') ? false : 'needs qemu-system-x86');
/** An emulated guest, on a host with other things to do. */
const patienceMs = 240_000;

const folder = fileURLToPath(new URL('../labs/boot-service', import.meta.url));
const packed = async (directory: string): Promise<Uint8Array> =>
  pack(await collectFiles([directory], directory));

async function templates({ admin }: Cloud): Promise<Template[]> {
  return (await admin.listTemplates({ params: {} })).items;
}

/** The lab's machine of this person, once its job is done. */
async function open(client: Client, lab: string): Promise<Machine> {
  const { job, id } = await client.openLabMachine({ params: { lab }, body: {} });
  const ended = await until(patienceMs, 'the machine to be opened', async () => {
    const now = await client.getJob({ params: { job: job.id }, query: { wait: 20 } });
    return now.finishedAt === null ? undefined : now;
  });
  assert.equal(ended.state, 'done', JSON.stringify(ended.error));
  return client.getMachine({ params: { machine: id ?? '' }, query: {} });
}

test(
  'a lab of virtual machines: some wait, a student gets one of them, and a killed grader costs nobody a mark',
  { skip, timeout: 900_000 },
  async (t) => {
    await (await openImages()).ensure('tiny');
    await using cloud = await startCloud();
    const { admin } = cloud;
    await admin.createCourse({ params: {}, body: { name: 'os', title: 'Systems' } });
    const lab = await admin.importLab({ params: { course: 'os' }, query: {}, bytes: await packed(folder) });
    assert.deepEqual(lab.machine, { driver: 'qemu', ready: 1 });
    const ada = await cloud.person('ada');
    const member = { course: 'os', user: 'ada' };
    await admin.setMember({ params: member, body: { role: 'student', section: null } });

    await t.test('nothing waits for a lab that nobody sees, nor can it be opened', async () => {
      assert.deepEqual(await templates(cloud), []);
      await assert.rejects(ada.client.openLabMachine({ params: { lab: lab.id }, body: {} }), {
        code: 'not_found',
      });
    });

    const waiting = async (count: number): Promise<Template> =>
      until(
        patienceMs,
        `${count} copies to wait`,
        async () => {
          const [template] = await templates(cloud);
          return template?.state === 'ready' && template.waiting === count ? template : undefined;
        },
        { everyMs: 200 },
      );
    const machines = (): string[] => readdirSync(join(cloud.directory, 'machines'));

    await t.test(
      'a released one has a template of its image and size, and as many copies as it says',
      async () => {
        await admin.changeLab({ params: { lab: lab.id }, body: { released: true } });
        const template = await waiting(1);
        assert.deepEqual(
          [template.image, template.limits],
          ['tiny', { cpus: 1, memoryBytes: 128 * 2 ** 20 }],
        );
        assert.deepEqual([template.ready, template.kept], [1, false]);
        const changed = await admin.changeLab({ params: { lab: lab.id }, body: { ready: 2 } });
        assert.deepEqual(changed.machine, { driver: 'qemu', ready: 2 });
        await waiting(2);
        await admin.changeLab({ params: { lab: lab.id }, body: { ready: null } });
        await waiting(1);
      },
    );

    await t.test(
      'who opens the lab gets the copy that waits, and the same machine when he comes again',
      async () => {
        const before = machines();
        const machine = await open(ada.client, lab.id);
        assert.ok(before.includes(machine.id), 'it was there before');
        assert.deepEqual([machine.owner, machine.labId, machine.driver], ['ada', lab.id, 'qemu']);
        assert.equal(machine.runtime?.startedFrom, 'template');
        assert.equal((await open(ada.client, lab.id)).id, machine.id);
        const { stdout } = await ada.client.runInMachine({
          params: { machine: machine.id },
          body: { argv: ['hostname'] },
        });
        assert.equal(Buffer.from(stdout, 'base64').toString(), 'boot-service\n');
        await waiting(1); // another one in its place
      },
    );

    await t.test(
      'a grader killed in the middle leaves nothing, and the next one gives the mark',
      async () => {
        const bytes = await packed(join(folder, 'solutions/reference'));
        const { submission } = await ada.client.submit({ params: { lab: lab.id }, bytes });
        const grading = () =>
          cloud
            .store()
            .db.selectFrom('machines')
            .select(['id', 'runtime'])
            .where('submission_id', '=', submission.id)
            .where('deleted_at', 'is', null)
            .where('state', '=', 'running')
            .execute();
        const [first] = await until(patienceMs, 'a machine to grade in', async () => {
          const rows = await grading();
          return rows.length > 0 ? rows : undefined;
        });
        assert.equal(first?.runtime?.startedFrom, 'template');
        const { daemon } = await cloud.untilWell();
        process.kill(daemon, 'SIGKILL');
        const graded = await until(
          patienceMs,
          'the mark',
          async () => {
            const now = await ada.client
              .getSubmission({ params: { submission: submission.id } })
              .catch(() => undefined); // it is being started again
            return now?.grading === 'graded' || now?.grading === 'error' ? now : undefined;
          },
          { everyMs: 500 },
        );
        assert.deepEqual([graded.grading, graded.points], ['graded', 10]);
        await until(patienceMs, 'its machines to be gone', async () =>
          (await grading()).length === 0 ? true : undefined,
        );
        assert.ok(first && !machines().includes(first.id), 'the directory of the killed one is gone');
      },
    );

    await t.test('a lab that is taken back takes what waits along, and no machine', async () => {
      await admin.changeLab({ params: { lab: lab.id }, body: { released: false } });
      await until(
        patienceMs,
        'the template to be gone',
        async () => ((await templates(cloud)).length === 0 && machines().length === 1 ? true : undefined),
        { everyMs: 200 },
      );
      const machine = await admin.getMachine({ params: { machine: machines()[0] ?? '' }, query: {} });
      assert.deepEqual([machine.owner, machine.state], ['ada', 'running']);
    });

    assert.deepEqual(await cloud.down(), []);
  },
);
