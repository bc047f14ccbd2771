import assert from 'node:assert/strict';
import { appendFile, mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { openImages } from './store.ts';
import { inPieces, scratch, tarOf } from './testing.ts';

test('an image is found by name, alias and hash; what is not there is named with a hint', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  await assert.rejects(
    images.require('busybox'),
    (error) =>
      isCarrelError(error, 'not_found') && error.hint === 'build it with: carrel image build busybox',
  );
  const { hash } = await images.ensure('busybox');
  for (const reference of ['busybox', 'tiny-rootfs', hash, hash.slice(0, 12)])
    assert.equal((await images.require(reference)).hash, hash);
  for (const reference of [hash.slice(0, 4), '../busybox', '', 'x'.repeat(300)])
    assert.equal(await images.find(reference), undefined);
  await assert.rejects(images.build('no such'), (error) => isCarrelError(error, 'not_found'));
});

test("an imported image wins its name from another's alias, and gives it back", async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  const source = inPieces(tarOf({ path: 'a', body: 'x' }), 512);
  const mine = await images.import({ name: 'tiny-rootfs', format: 'tar', source });
  const { hash } = await images.ensure('busybox'); // newer
  assert.notEqual(hash, mine.hash);
  assert.equal((await images.require('tiny-rootfs')).hash, mine.hash);
  assert.equal((await images.require('tiny-rootfs', { kind: 'rootfs' })).hash, mine.hash);
  await images.remove('tiny-rootfs');
  assert.equal((await images.require('tiny-rootfs')).hash, hash);
});

test('an image of another kind is pointed at', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  await images.ensure('busybox');
  await assert.rejects(
    images.require('busybox', { kind: 'disk' }),
    (error) =>
      isCarrelError(error, 'not_found') && error.hint?.startsWith('busybox is a root file system') === true,
  );
});

test('an image whose recipe has changed is outdated, and used all the same until somebody builds it', async () => {
  await using temporary = await scratch();
  const recipes = join(temporary.directory, 'recipes');
  await mkdir(join(recipes, 'one'), { recursive: true });
  await mkdir(join(recipes, 'files'));
  await writeFile(join(recipes, 'files', 'note'), 'first');
  await writeFile(
    join(recipes, 'one', 'recipe.yaml'),
    'name: one\nkind: rootfs\ndescription: test\nbase: {from: busybox}\nsteps: [{do: copy_files, from: files}]\n',
  );
  const images = await openImages({ cache: join(temporary.directory, 'cache'), recipes });
  const before = await images.build('one');
  const outdated = async (): Promise<string[]> =>
    [...(await images.outdated(await images.list()))].map(({ hash }) => hash);
  assert.deepEqual(await outdated(), []);
  // a file that it copies is part of the recipe
  await writeFile(join(recipes, 'files', 'note'), 'second');
  assert.deepEqual(await outdated(), [before.hash]);
  assert.equal((await images.ensure('one')).hash, before.hash);
  const after = await images.build('one');
  assert.notEqual(after.hash, before.hash);
  assert.deepEqual(await outdated(), [before.hash]);
  assert.equal((await images.require('one')).hash, after.hash);
  await images.import({ name: 'two', format: 'tar', source: inPieces(tarOf({ path: 'a', body: 'x' }), 512) });
  assert.deepEqual(await outdated(), [before.hash], 'what has no recipe is never old');
});

test('an image in use cannot be removed; one whose user is gone can', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: join(temporary.directory, 'cache') });
  const { hash } = await images.ensure('busybox');
  const machine = join(temporary.directory, 'machine');
  await mkdir(machine);
  await images.hold(hash, machine);
  await assert.rejects(images.remove('busybox'), (error) => isCarrelError(error, 'wrong_state'));
  assert.equal((await images.require(hash)).hash, hash);
  await rm(machine, { recursive: true });
  await images.remove('busybox');
  assert.deepEqual(await images.list(), []);
  assert.deepEqual(await readdir(images.layout.tmp), []);
  await assert.rejects(images.hold(hash, temporary.directory), (error) => isCarrelError(error, 'not_found'));
});

test('a file changed behind our back is noticed', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  const image = await images.ensure('busybox');
  await images.verify('busybox');
  await appendFile(join(image.path, 'etc/passwd'), 'evil::0:0::/:/bin/sh\n');
  await assert.rejects(images.verify('busybox'), (error) => isCarrelError(error, 'internal'));
});

test('content that is here already keeps its one name', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  const take = (name: string) =>
    images.import({ name, format: 'tar', source: inPieces(tarOf({ path: 'a', body: 'x' }), 512) });
  const { hash } = await take('one');
  assert.equal((await take('one')).hash, hash);
  await assert.rejects(take('two'), (error) => isCarrelError(error, 'name_taken'));
  assert.deepEqual(
    (await images.list()).map(({ name }) => name),
    ['one'],
  );
});

test('a damaged image is left out of the list, and the others stay', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  const bad = await images.import({
    name: 'bad',
    format: 'tar',
    source: inPieces(tarOf({ path: 'a' }), 512),
  });
  await images.ensure('busybox');
  await writeFile(join(bad.directory, 'image.json'), '{');
  assert.deepEqual(
    (await images.list()).map(({ name }) => name),
    ['busybox'],
  );
});
