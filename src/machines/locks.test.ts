import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { sleep } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import { openLocks } from './locks.ts';

const directory = mkdtempSync(join(tmpdir(), 'carrel-locks-'));
after(() => rmSync(directory, { recursive: true }));

test('work at one machine is done one after the other, in the order it was asked for', async () => {
  const locks = openLocks(directory);
  const done: string[] = [];
  let inside = 0;
  const work = async (name: string): Promise<void> => {
    using _lock = await locks.take('m-1');
    inside += 1;
    assert.equal(inside, 1);
    await sleep(2);
    done.push(name);
    inside -= 1;
  };
  await Promise.all(['a', 'b', 'c', 'd'].map(work));
  assert.deepEqual(done, ['a', 'b', 'c', 'd']);
  assert.equal(locks.isBusy('m-1'), false);
});

test('two services on one directory exclude each other, also when the lock file goes with the machine', async () => {
  const [one, two] = [openLocks(directory), openLocks(directory)];
  const first = await one.take('m-2');
  await assert.rejects(two.take('m-2', { limitMs: 30 }), (error) =>
    isCarrelError(error, 'deadline_exceeded'),
  );
  const waiting = two.take('m-2');
  first.forget();
  (await waiting).forget();
  assert.equal(existsSync(join(directory, 'm-2')), false);
});

test('a wait for a lock that is given up does not stand in the way of the next', async () => {
  const locks = openLocks(directory);
  const first = await locks.take('m-3');
  await assert.rejects(locks.take('m-3', { limitMs: 10 }), (error) =>
    isCarrelError(error, 'deadline_exceeded'),
  );
  first[Symbol.dispose]();
  using _again = await locks.take('m-3', { limitMs: 1000 });
  assert.ok(readdirSync(directory).includes('m-3'));
});
