import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { writeFileAtomic, writeFileAtomicSync } from './files.ts';

const directory = mkdtempSync(join(tmpdir(), 'files-'));
after(() => rmSync(directory, { recursive: true }));

function content(letter: string): string {
  return letter.repeat(200_000);
}

test('readers see the old or the new content, never a part', async () => {
  const path = join(directory, 'a');
  await writeFileAtomic(path, content('0'));
  const writing = 'abcdef'.split('').reduce(async (before, letter) => {
    await before;
    await writeFileAtomic(path, content(letter), { mode: 0o644 });
  }, Promise.resolve());
  for (let round = 0; round < 200; round += 1) {
    const seen = readFileSync(path, 'utf8');
    assert.equal(seen, content(seen.charAt(0)));
    await new Promise(setImmediate);
  }
  await writing;
  assert.equal(statSync(path).mode & 0o777, 0o644);
  writeFileAtomicSync(path, 'short', { mode: 0o600 });
  assert.equal(readFileSync(path, 'utf8'), 'short');
});

test('a write that fails leaves nothing', async () => {
  await assert.rejects(writeFileAtomic(join(directory, 'missing', 'x'), ''), /ENOENT/);
  await assert.rejects(writeFileAtomic(directory, ''), /EISDIR|ENOTDIR|EEXIST|ENOTEMPTY/);
  assert.throws(() => writeFileAtomicSync(join(directory, 'missing', 'x'), ''), /ENOENT/);
  const beside = readdirSync(join(directory, '..')).filter(
    (name) => name.endsWith('.tmp') && name.startsWith('files-'),
  );
  assert.deepEqual(beside, []);
  assert.deepEqual(readdirSync(directory), ['a']);
});
