import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { openScratch } from './scratch.ts';

const ours = process.env['TMPDIR'];
let parent = '';
before(async () => {
  parent = await mkdtemp(join(tmpdir(), 'carrel-scratch-'));
  process.env['TMPDIR'] = parent;
});
after(async () => {
  if (ours === undefined) delete process.env['TMPDIR'];
  else process.env['TMPDIR'] = ours;
  await rm(parent, { recursive: true });
});

test('a scratch directory is there until it is disposed of, also while others are made', async () => {
  {
    await using first = await openScratch('work');
    writeFileSync(join(first.directory, 'file'), 'x');
    await using second = await openScratch('work');
    assert.notEqual(first.directory, second.directory);
    assert.ok(existsSync(join(first.directory, 'file')));
  }
  assert.deepEqual(readdirSync(parent), []);
});

test('what a killed process left is removed by the next one, and nothing else', async () => {
  const program = `
    import { openScratch } from '${import.meta.dirname}/scratch.ts';
    const { directory } = await openScratch('work');
    console.log(directory);
    setInterval(() => undefined, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [said]: readonly unknown[] = await once(child.stdout, 'data');
  const left = String(said).trim();
  mkdirSync(join(left, 'below'));
  writeFileSync(join(left, 'below/file'), 'x');
  await (await openScratch('work'))[Symbol.asyncDispose]();
  assert.ok(existsSync(left), 'its owner lives');
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
  // of other names, no directory, and a way to elsewhere
  mkdirSync(join(parent, 'other-abcdef'));
  mkdirSync(join(parent, 'work-notes'));
  writeFileSync(join(parent, 'work-abcdef'), '');
  symlinkSync(join(parent, 'other-abcdef'), join(parent, 'work-ghijkl'));
  await (await openScratch('work'))[Symbol.asyncDispose]();
  assert.deepEqual(readdirSync(parent).toSorted(), [
    'other-abcdef',
    'work-abcdef',
    'work-ghijkl',
    'work-notes',
  ]);
});

test('many at the same time do not take each other’s', async () => {
  const opened = await Promise.all(
    Array.from({ length: 50 }, async (_, index) => {
      const scratch = await openScratch('many');
      writeFileSync(join(scratch.directory, 'file'), String(index));
      return scratch;
    }),
  );
  for (const { directory } of opened) assert.ok(existsSync(join(directory, 'file')));
  for (const scratch of opened) await scratch[Symbol.asyncDispose]();
  assert.deepEqual(
    readdirSync(parent).filter((entry) => entry.startsWith('many')),
    [],
  );
});
