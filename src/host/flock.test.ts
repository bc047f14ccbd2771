import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { isLocked, readLockNote, tryLock } from './flock.ts';

const directory = mkdtempSync(join(tmpdir(), 'flock-'));
const path = join(directory, 'lock');
after(() => rmSync(directory, { recursive: true }));

test('one holder at a time, and the note says who', () => {
  assert.equal(isLocked(path), false);
  assert.equal(readLockNote(path), undefined);
  {
    using lock = tryLock(path, { note: 'me' });
    assert.ok(lock);
    assert.equal(isLocked(path), true);
    assert.equal(tryLock(path, { note: 'not me' }), undefined);
    assert.equal(readLockNote(path), 'me');
  }
  assert.equal(isLocked(path), false);
  tryLock(path)?.release();
  assert.equal(readLockNote(path), `${process.pid}\n`);
});

test('the lock goes with a holder that is killed, not before', async () => {
  const code = `import { tryLock } from '${import.meta.dirname}/flock.ts';
    console.log(tryLock(process.argv[1]) !== undefined); setInterval(() => undefined, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', code, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line]: unknown[] = await once(child.stdout, 'data');
  assert.equal(String(line), 'true\n');
  assert.equal(isLocked(path), true);
  assert.equal(tryLock(path), undefined);
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.equal(isLocked(path), false);
});
