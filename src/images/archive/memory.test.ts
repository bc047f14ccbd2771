import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createGzip } from 'node:zlib';
import { Readable } from 'node:stream';
import { isCarrelError } from '#base/errors.ts';
import { tarOf } from '../testing.ts';
import { imageLimits } from './limits.ts';
import { readArchive } from './read.ts';

/** An honest archive with one file of `size` zeros, made while it is read. */
async function* hugeTar(size: number): AsyncGenerator<Uint8Array, void, undefined> {
  yield tarOf({ path: 'zeros', size }).subarray(0, 512);
  const piece = Buffer.alloc(2 ** 16);
  for (let left = size; left > 0; left -= piece.length) yield piece;
  yield Buffer.alloc(1024);
}

const limit = 64 * 2 ** 20;

/** Runs `work` and says how much the resident set grew at most; sampled, as the peak counts earlier tests. */
async function growth(work: () => Promise<void>): Promise<number> {
  const before = process.memoryUsage.rss();
  let most = before;
  const timer = setInterval(() => {
    most = Math.max(most, process.memoryUsage.rss());
  }, 5);
  try {
    await work();
  } finally {
    clearInterval(timer);
  }
  return Math.max(most, process.memoryUsage.rss()) - before;
}

test('a file of 500 MiB passes through without being kept', async () => {
  const grown = await growth(async () => {
    let bytes = 0;
    for await (const { data } of readArchive(hugeTar(500 * 2 ** 20), 'tar', imageLimits))
      for await (const chunk of data) bytes += chunk.length;
    assert.equal(bytes, 500 * 2 ** 20);
  });
  assert.ok(grown < limit, `${grown} bytes more`);
});

test('a bomb of 500 MiB is stopped by its ratio, in little memory', async () => {
  const grown = await growth(async () => {
    const bomb = Readable.from(hugeTar(500 * 2 ** 20), { objectMode: false }).pipe(createGzip());
    await assert.rejects(
      async () => {
        for await (const { data } of readArchive(bomb, 'tar.gz', imageLimits)) for await (const _ of data);
      },
      (error) => isCarrelError(error, 'too_large'),
    );
    bomb.destroy();
  });
  assert.ok(grown < limit, `${grown} bytes more`);
});
