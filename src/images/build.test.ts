import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { lstat, mkdir, readFile, readdir, readlink, writeFile } from 'node:fs/promises';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import type { BuildProgress } from './build.ts';
import { openImages } from './store.ts';
import { scratch } from './testing.ts';

const asRoot = process.geteuid?.() === 0 ? false : 'needs root';

/** A directory of recipes with one in it. */
async function recipeIn(directory: string, name: string, steps: string): Promise<void> {
  await mkdir(join(directory, name), { recursive: true });
  const text = `name: ${name}\nkind: rootfs\ndescription: test\nbase: {from: busybox}\nsteps: ${steps}\n`;
  await writeFile(join(directory, name, 'recipe.yaml'), text);
}

test('an image without a file of passwords has none in it', async () => {
  await using temporary = await scratch();
  const recipes = join(temporary.directory, 'recipes');
  await recipeIn(
    recipes,
    'plain',
    '[{do: directory, paths: [/etc]}, {do: per_machine, facts: [root-password]}]',
  );
  const images = await openImages({ cache: join(temporary.directory, 'cache'), recipes });
  const { path } = await images.build('plain');
  assert.equal((await readdir(join(path, 'etc'))).includes('shadow'), false);
});

test('busybox builds into a root that can be entered, with nothing that machines could share by mistake', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  const seen: BuildProgress[] = [];
  const image = await images.build('busybox', { onProgress: (progress) => seen.push(progress) });
  assert.equal(image.kind, 'rootfs');
  assert.equal(seen.at(-1)?.step, seen.at(-1)?.of);
  const at = (path: string): string => join(image.path, path);
  assert.equal(await readFile(at('etc/machine-id'), 'utf8'), '');
  assert.match(await readFile(at('etc/passwd'), 'utf8'), /^root:x:0:0:.*\n(.*\n)*student:x:1000:1000:/);
  assert.match(await readFile(at('etc/group'), 'utf8'), /^users:x:100:student$/m);
  assert.equal((await lstat(at('tmp'))).mode & 0o7777, 0o1777);
  assert.equal((await lstat(image.path)).mode & 0o777, 0o755);
  assert.equal(await readlink(at('bin/sh')), 'busybox');
  assert.deepEqual(await readdir(at('dev')), []);
  assert.deepEqual(await readdir(images.layout.tmp), []);
  if (asRoot === false) {
    const out = execFileSync('chroot', [
      image.path,
      '/bin/sh',
      '-c',
      'id -un; ls / | wc -l; readlink -f /var/run',
    ]);
    assert.match(out.toString(), /^root\n\d+\n\/run\n$/);
  }
  await images.verify('busybox');
});

test('a second build returns the image; a forced one gives equal content the same hash', async () => {
  await using temporary = await scratch();
  const images = await openImages({ cache: temporary.directory });
  const first = await images.build('busybox');
  assert.equal((await images.build('busybox')).createdAt, first.createdAt);
  const forced = await images.build('busybox', { force: true });
  assert.equal(forced.hash, first.hash);
  assert.notEqual(forced.createdAt, first.createdAt);
  assert.equal((await images.list()).length, 1);
});

test('the umask of the builder does not get into the image', async () => {
  await using temporary = await scratch();
  const hashes: string[] = [];
  for (const umask of [0o022, 0o077]) {
    const before = process.umask(umask);
    try {
      const images = await openImages({ cache: join(temporary.directory, String(umask)) });
      hashes.push((await images.build('busybox')).hash);
    } finally {
      process.umask(before);
    }
  }
  assert.equal(hashes[0], hashes[1]);
});

test('builds of one recipe at the same time make it once', async () => {
  await using temporary = await scratch();
  const recipes = join(temporary.directory, 'recipes');
  const cache = join(temporary.directory, 'cache');
  await recipeIn(recipes, 'r', '[{do: file, path: /a, content: x}]');
  const code = `
    const { openImages } = await import(${JSON.stringify(join(import.meta.dirname, 'store.ts'))});
    const images = await openImages(${JSON.stringify({ cache, recipes })});
    let built = false;
    const image = await images.build('r', { onProgress: ({ what }) => { built ||= what.startsWith('base') } });
    console.log(JSON.stringify({ hash: image.hash, built }));`;
  const children = Array.from({ length: 4 }, async () => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    const [status]: unknown[] = await once(child, 'close');
    assert.equal(status, 0);
    return text;
  });
  const answers = await Promise.all(children);
  assert.equal(answers.filter((text) => text.includes('"built":true')).length, 1, answers.join(''));
  assert.deepEqual(await readdir(join(cache, 'tmp')), []);
});

test('a step that follows a link stays inside the image', async () => {
  await using temporary = await scratch();
  const recipes = join(temporary.directory, 'recipes');
  const outside = join(temporary.directory, 'outside');
  await mkdir(outside);
  const link = JSON.stringify(outside);
  const steps = `[{do: symlink, path: /evil, target: ${link}}, {do: file, path: /evil/a, content: x},
    {do: symlink, path: /up, target: ../../../../../../../../..${outside}}, {do: file, path: /up/b, content: x},
    {do: symlink, path: /f, target: ${JSON.stringify(`${outside}/c`)}}, {do: file, path: /f, content: x},
    {do: remove, paths: [/evil/*]}, {do: remove, paths: ['/up/*']}]`;
  await recipeIn(recipes, 'r', steps);
  await writeFile(join(outside, 'keep'), '');
  const images = await openImages({ cache: join(temporary.directory, 'cache'), recipes });
  const image = await images.build('r');
  assert.deepEqual(await readdir(outside), ['keep']);
  assert.ok((await lstat(join(image.path, 'f'))).isFile());
});

test('a failed step leaves nothing and says what failed', { skip: asRoot }, async () => {
  await using temporary = await scratch();
  const recipes = join(temporary.directory, 'recipes');
  await recipeIn(recipes, 'r', '[{do: run, argv: [/bin/sh, -c, "echo no such luck; exit 3"]}]');
  const images = await openImages({ cache: join(temporary.directory, 'cache'), recipes });
  await assert.rejects(
    images.build('r'),
    (error) => isCarrelError(error, 'helper_failed') && /ended with 3: no such luck/.test(error.message),
  );
  assert.deepEqual(await readdir(images.layout.tmp), []);
  assert.deepEqual(await images.list(), []);
});

test('a build can be cancelled', { skip: asRoot }, async () => {
  await using temporary = await scratch();
  const recipes = join(temporary.directory, 'recipes');
  await recipeIn(recipes, 'r', '[{do: run, argv: [/bin/sleep, "60"]}]');
  const images = await openImages({ cache: join(temporary.directory, 'cache'), recipes });
  const stop = new AbortController();
  const build = images.build('r', {
    signal: stop.signal,
    onProgress: ({ what }) => {
      if (what.startsWith('run')) setTimeout(() => stop.abort(new Error('enough')), 50);
    },
  });
  await assert.rejects(build, /enough/);
  assert.deepEqual(await readdir(images.layout.tmp), []);
});

/** Pids of processes with this argument. */
function processesWith(argument: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(argument);
    } catch {
      return false;
    }
  });
}

test(
  'a killed build takes its programs along, and the next build removes what it left',
  { skip: asRoot },
  async () => {
    await using temporary = await scratch();
    const recipes = join(temporary.directory, 'recipes');
    const cache = join(temporary.directory, 'cache');
    const seconds = String(1_000_000 + process.pid);
    await recipeIn(recipes, 'slow', `[{do: run, argv: [/bin/sleep, "${seconds}"], seconds: 60}]`);
    await recipeIn(recipes, 'quick', '[]');
    const code = `
    const { openImages } = await import(${JSON.stringify(join(import.meta.dirname, 'store.ts'))});
    await (await openImages(${JSON.stringify({ cache, recipes })})).build('slow');`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: 'ignore' });
    await until(20_000, 'the step to run', () => (processesWith(seconds).length > 0 ? true : undefined));
    child.kill('SIGKILL');
    await until(10_000, 'the program to end', () => (processesWith(seconds).length === 0 ? true : undefined));
    const tmp = join(cache, 'tmp');
    assert.equal((await readdir(tmp)).length, 2);
    const images = await openImages({ cache, recipes });
    await images.build('quick');
    assert.deepEqual(await readdir(tmp), []);
    assert.deepEqual(
      (await images.list()).map(({ name }) => name),
      ['quick'],
    );
  },
);

test('builds killed at any moment leave whole images or none', async () => {
  await using temporary = await scratch();
  const cache = temporary.directory;
  const code = `
    const { openImages } = await import(${JSON.stringify(join(import.meta.dirname, 'store.ts'))});
    const images = await openImages(${JSON.stringify({ cache })});
    console.log('ready');
    for (;;) await images.build('busybox', { force: true });`;
  const images = await openImages({ cache });
  for (let round = 0; round < 6; round += 1) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    await once(child.stdout, 'data');
    await new Promise((resolve) => setTimeout(resolve, 20 + round * 41));
    child.kill('SIGKILL');
    await once(child, 'close');
    for (const { hash } of await images.list()) await images.verify(hash);
  }
  await images.build('busybox', { force: true });
  await images.verify('busybox');
  assert.deepEqual(await readdir(images.layout.tmp), []);
});
