import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { test } from 'node:test';
import { removeTree } from './trees.ts';

test('a folder goes though somebody who is about to end still makes files in it', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'carrel-tree-'));
  await mkdir(join(directory, 'a/b'), { recursive: true });
  const stop = new AbortController();
  const writing = (async () => {
    for (let at = 0; at < 500 && !stop.signal.aborted; at += 1) {
      await writeFile(join(directory, `late-${at}`), '').catch(() => undefined); // it is gone
      await setImmediate();
    }
  })();
  try {
    await removeTree(directory);
    assert.equal(existsSync(directory), false);
  } finally {
    stop.abort();
    await writing;
  }
  await removeTree(directory); // once more is no error
});
