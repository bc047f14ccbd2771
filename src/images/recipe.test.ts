import assert from 'node:assert/strict';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { parseRecipe, readRecipes } from './recipe.ts';
import { matches } from './steps.ts';
import { scratch } from './testing.ts';

const head = 'name: x\nkind: rootfs\ndescription: d\nbase: {from: busybox}\n';

const refused: readonly [string, string, RegExp][] = [
  ['an unknown field', `${head}shell: rm -rf /`, /shell/],
  ['an unknown field of a step', `${head}steps: [{do: file, path: /a, content: '', owner: me}]`, /owner/],
  ['an unknown step', `${head}steps: [{do: shell, argv: [ls]}]`, /do/],
  ['a command line instead of arguments', `${head}steps: [{do: run, argv: 'ls -l'}]`, /argv/],
  ['a path that climbs', `${head}steps: [{do: file, path: /../etc/passwd, content: x}]`, /climbs out/],
  ['a relative path', `${head}steps: [{do: directory, paths: [etc]}]`, /must begin with a slash/],
  ['a mode that is a number', `${head}steps: [{do: directory, paths: [/a], mode: 755}]`, /mode/],
  ['a package that is an option', `${head}steps: [{do: packages, names: ['-oDpkg::x']}]`, /Debian package/],
  ['packages without a package manager', `${head}steps: [{do: packages, names: [gcc]}]`, /need the base/],
  [
    'a user with a second line',
    `${head}steps: [{do: user, name: "a\\nroot", uid: 1, home: /h, shell: /s}]`,
    /user name/,
  ],
  [
    'a suite that is an option',
    'name: x\nkind: rootfs\ndescription: d\nbase: {from: mmdebstrap, suite: --hook}',
    /suite/,
  ],
  ['a name with a slash', head.replace('name: x', 'name: a/b'), /name/],
  ['a name of 300 characters', head.replace('name: x', `name: ${'x'.repeat(300)}`), /name/],
  ['a kind that does not exist', head.replace('rootfs', 'floppy'), /kind/],
  ['a disk without what makes it one', head.replace('rootfs', 'disk'), /needs a part "disk"/],
  [
    'a disk of busybox alone',
    `${head.replace('rootfs', 'disk')}disk: {size: 64M, kernel: linux-image-amd64, modules: all, append: quiet}`,
    /needs the base mmdebstrap/,
  ],
  [
    'a disk of an odd size',
    `${head}disk: {size: 100K, kernel: linux-image-amd64, modules: all, append: quiet}`,
    /whole MiB/,
  ],
  [
    'a command line that begins another line of GRUB',
    `${head}disk: {size: 64M, kernel: linux-image-amd64, modules: all, append: "quiet\nhalt"}`,
    /append/,
  ],
  ['an agent without a machine', `${head}steps: [{do: agent}]`, /agent is for disks/],
  ['a folder that climbs', `${head}steps: [{do: copy_files, from: ../x}]`, /climbs out/],
  ['YAML that grows without end', `${head}aliases: [&a [x], *a]`, /YAML/],
  ['no YAML at all', '{', /YAML/],
  ['nothing', '', /recipe/],
];

for (const [what, text, sentence] of refused)
  test(`a recipe with ${what} is refused`, () => {
    assert.throws(
      () => parseRecipe(text),
      (error) => isCarrelError(error, 'validation_failed') && sentence.test(error.message),
    );
  });

test('the recipes that come with Carrel are valid and named like their folders', async () => {
  const recipes = await readRecipes(join(import.meta.dirname, '../../recipes'));
  assert.ok(recipes.has('busybox') && recipes.has('debian-12'));
  const empty = recipes
    .get('debian-12')
    ?.steps.find((step) => step.do === 'file' && step.path === '/etc/machine-id');
  assert.ok(empty?.do === 'file' && empty.content === '');
});

test('two recipes cannot have one name', async () => {
  await using temporary = await scratch();
  for (const name of ['one', 'two']) {
    await mkdir(join(temporary.directory, name));
    await writeFile(join(temporary.directory, name, 'recipe.yaml'), head);
  }
  await assert.rejects(readRecipes(temporary.directory), /two recipes are called x/);
});

test('a star stands for any characters, everything else for itself', () => {
  assert.ok(matches('ssh_host_*', 'ssh_host_rsa_key.pub'));
  assert.ok(matches('*', '.hidden'));
  assert.ok(matches('*-old', 'status-old') && !matches('*-old', 'status-older'));
  assert.ok(!matches('a.c', 'abc') && matches('a+(b)', 'a+(b)'));
});

test('what the recipes that come with Carrel copy is there', async () => {
  const directory = join(import.meta.dirname, '../../recipes');
  const copied: string[] = [];
  for (const { steps } of (await readRecipes(directory)).values())
    for (const step of steps) if (step.do === 'copy_files') copied.push(step.from);
  assert.ok(copied.includes('linux/files'));
  for (const from of copied) assert.ok((await readdir(join(directory, from))).length > 0, from);
});
