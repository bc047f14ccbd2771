/**
 * A lab of guests in a real cloud: a student without a /dev/kvm opens it, tries her file in a machine of her own, hands it
 * in from there, and is graded by a run of its own.
 */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { collectFiles, pack } from '#cli/archive.ts';
import { launch } from '#host/launch.ts';
import { openImages } from '#images/store.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { startCloud, whyNoCloud } from './harness/cloud.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = join(root, 'labs/kvm-files');

test(
  'a student tries a guest in a machine of her own, and hands in what is in it',
  { skip: whyNoCloud() ?? withoutKvm, timeout: 900_000 },
  async (t) => {
    await (await openImages()).ensure('debian-12');
    await using cloud = await startCloud();
    const { admin } = cloud;
    await admin.createCourse({ params: {}, body: { name: 'os', title: 'Systems' } });
    const lab = await admin.importLab({
      params: { course: 'os' },
      query: {},
      bytes: await pack(await collectFiles([folder], folder)),
    });
    assert.deepEqual(lab.machine, { driver: 'micro', ready: 0 });
    await admin.changeLab({ params: { lab: lab.id }, body: { released: true } });
    const ada = await cloud.person('ada');
    const bob = await cloud.person('bob');
    for (const user of ['ada', 'bob'])
      await admin.setMember({ params: { course: 'os', user }, body: { role: 'student', section: null } });

    const home = await mkdtemp(join(tmpdir(), 'carrel-guest-lab-'));
    t.after(() => rm(home, { recursive: true }));
    /** As ada types it. */
    const carrel = async (...args: readonly string[]): Promise<{ status: number | null; text: string }> => {
      const { status, stdout, stderr } = await launch(
        [process.execPath, join(root, 'src/cli/main.ts'), ...args],
        {
          timeoutMs: 240_000,
          cwd: home,
          env: { ...process.env, HOME: home, CARREL_URL: cloud.url, CARREL_TOKEN: ada.token },
        },
      );
      return { status, text: `${stdout.toString('utf8')}${stderr.toString('utf8')}` };
    };

    await t.test('the machine has the start files in it, and what she changed stays', async () => {
      const opened = await carrel('lab', 'open', 'kvm-files');
      assert.equal(opened.status, 0, opened.text);
      assert.match(opened.text, /In it now: .*files\.c/);
      const unchanged = await carrel('machine', 'run', '--limit', '10s', 'kvm-files', 'try.c');
      assert.match(unchanged.text, /cannot open c\.txt/);
      const solution = join(folder, 'solutions/reference/files.c');
      assert.equal((await carrel('machine', 'put', 'kvm-files', solution, 'files.c')).status, 0);
      const again = await carrel('lab', 'open', 'kvm-files');
      assert.equal(again.status, 0, again.text);
      assert.doesNotMatch(again.text, /In it now/);
      const kept = await carrel('machine', 'get', 'kvm-files', 'files.c', '-');
      assert.equal(kept.text, await readFile(solution, 'utf8'));
    });

    await t.test('a run shows text, exits and the end, and its files can be fetched', async () => {
      const ran = await carrel('machine', 'run', '--limit', '10s', 'kvm-files', 'try.c');
      assert.equal(ran.status, 0, ran.text);
      assert.match(ran.text, /^nothing to read\n/);
      assert.match(ran.text, /vcpu 0: halted; \d+ exits \(\d+ IO, 1 HLT\)/);
      assert.equal((await carrel('machine', 'get', 'kvm-files', 'c.txt', '-')).text, 'test\n');
      const inspected = await carrel('machine', 'inspect', 'kvm-files');
      assert.match(inspected.text, /port 0xeb in: 1/);
    });

    await t.test('nobody else has anything of it', async () => {
      const id = (await ada.client.listMachines({ params: {}, query: {} })).items[0]?.id ?? '';
      const params = { machine: id };
      for (const attempt of [
        () => bob.client.readFile({ params, query: { path: 'files.c' } }),
        () => bob.client.runInMachine({ params, body: { argv: ['try.c'] } }),
        () => bob.client.inspectMachine({ params }),
      ])
        await assert.rejects(attempt(), { code: 'not_found' });
    });

    await t.test('handed in from there, it is graded', async () => {
      const graded = await carrel('submit', 'kvm-files', 'files.c', '--machine', 'kvm-files');
      assert.equal(graded.status, 0, graded.text);
      // one check is hidden from students until the lab is due
      assert.equal(graded.text.match(/✓/g)?.length, 9, graded.text);
      assert.match(graded.text, /1 files/);
    });
  },
);
