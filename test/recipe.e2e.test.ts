/**
 * A recipe with both kinds of customisation, built by a real cloud: offline steps, then steps in the machine itself. And
 * what is told of an image whose recipe has changed. Needs a mirror and about a minute.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, suite, test } from 'node:test';
import { startCloud, whyNoCloud, type Cloud } from './harness/cloud.ts';

const needed = ['qemu-system-x86_64', 'mmdebstrap', 'grub-mkimage'];
const missing = needed.find((program) => !existsSync(join('/usr/bin', program)));
const skip = whyNoCloud() ?? (missing === undefined ? false : `${missing} is not installed`);
const name = 'probed';

suite('a recipe with online steps', { skip, timeout: 900_000 }, () => {
  let cloud: Cloud;
  let recipes: string;

  before(async () => {
    recipes = await mkdtemp(join(tmpdir(), 'carrel-recipes-'));
    await cp(join(import.meta.dirname, 'recipes'), recipes, { recursive: true });
    await cp(join(import.meta.dirname, '../recipes/guest'), join(recipes, 'guest'), { recursive: true });
    // what an earlier run may have left in the cache was made otherwise
    const file = join(recipes, name, 'recipe.yaml');
    await writeFile(
      file,
      (await readFile(file, 'utf8')).replace('made-by-kernel', `made-by-kernel-${process.pid}`),
    );
    process.env['CARREL_RECIPES'] = recipes;
    cloud = await startCloud({ uplink: true }); // to the mirror
  });
  after(async () => {
    // the cache is the host's
    await cloud?.admin.removeImage({ params: { image: name } }).catch(() => undefined);
    await cloud?.[Symbol.asyncDispose]();
    await rm(recipes, { recursive: true, force: true });
  });

  test('is built, and what its steps said in the machine is shown', async () => {
    const { job } = await cloud.admin.buildImage({ params: {}, body: { recipe: name } });
    const waited = await cloud.carrel('job', 'wait', job.id);
    assert.equal(waited.status, 0, waited.stderr.toString());
    const image = await cloud.admin.getImage({ params: { image: name } });
    assert.deepEqual([image.state, image.outdated], ['ready', false]);
    assert.deepEqual(
      image.online.map(({ argv, status }) => [argv[0], status]),
      [
        ['modprobe', 0],
        ['sh', 0],
      ],
    );
    const shown = await cloud.carrel('image', 'show', name);
    assert.match(shown.stdout.toString(), /in the machine: modprobe veth {2}\(status 0, /);
    assert.match(shown.stdout.toString(), /\n6\.\d+\.\d+-\S*cloud-amd64\n/, 'the machine’s kernel');
    const log = await cloud.carrel('job', 'log', job.id);
    assert.match(log.stdout.toString(), /modprobe veth ended with 0/);
  });

  test('is outdated when it is not the recipe any more', async () => {
    const file = join(recipes, name, 'recipe.yaml');
    await writeFile(
      file,
      (await readFile(file, 'utf8')).replace('argv: [modprobe, veth]', 'argv: [modprobe, -q, veth]'),
    );
    assert.equal((await cloud.admin.getImage({ params: { image: name } })).outdated, true);
    const listed = await cloud.carrel('image', 'ls');
    assert.match(listed.stdout.toString(), /^probed +outdated /m);
  });
});
