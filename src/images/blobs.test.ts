import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdir, rename, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { type BlobStore, openBlobs } from './blobs.ts';
import { gather, inPieces, scratch } from './testing.ts';
import { sha256 } from './tree.ts';

async function hashes(store: BlobStore): Promise<string[]> {
  const list: string[] = [];
  for await (const { hash } of store.list()) list.push(hash);
  return list.sort();
}

test('what is put comes back by its hash', async () => {
  await using temporary = await scratch();
  const store = await openBlobs(temporary.directory);
  const data = randomBytes(700_000);
  const blob = await store.put(inPieces(data, 9999));
  assert.deepEqual(blob, { hash: sha256(data), size: data.length });
  assert.ok((await gather(store.read(blob.hash))).equals(data));
  assert.equal((await store.stat(blob.hash))?.size, data.length);
  assert.deepEqual(await store.put(data), blob);
  assert.deepEqual(await hashes(store), [blob.hash]);
  await assert.rejects(store.readWhole(blob.hash, { limit: 10 }), (error) =>
    isCarrelError(error, 'too_large'),
  );
  assert.equal((await store.put(new Uint8Array(0))).size, 0);
});

test('what is too long, not what was promised, or breaks off leaves nothing', async () => {
  await using temporary = await scratch();
  const store = await openBlobs(temporary.directory);
  const data = Buffer.from('some text');
  await assert.rejects(store.put(data, { limit: 5 }), (error) => isCarrelError(error, 'too_large'));
  await assert.rejects(store.put(data, { expected: sha256('other') }), (error) =>
    isCarrelError(error, 'validation_failed'),
  );
  async function* broken(): AsyncGenerator<Uint8Array, void, undefined> {
    yield data;
    throw new Error('connection lost');
  }
  await assert.rejects(store.put(broken()), /connection lost/);
  await assert.rejects(
    store.put(inPieces(data, 1), { signal: AbortSignal.abort(new Error('enough')) }),
    /enough/,
  );
  assert.deepEqual(await readdir(temporary.directory), ['tmp']);
  assert.deepEqual(await readdir(join(temporary.directory, 'tmp')), []);
});

test('a hash from outside is no path', async () => {
  await using temporary = await scratch();
  const store = await openBlobs(temporary.directory);
  for (const hash of ['../../etc/passwd', '', 'ab', 'A'.repeat(64), `${'a'.repeat(64)}\n`])
    await assert.rejects(store.stat(hash), (error) => isCarrelError(error, 'invalid_request'));
  await assert.rejects(gather(store.read('a'.repeat(64))), (error) => isCarrelError(error, 'not_found'));
});

test('a damaged blob is not given out as if it were whole, and a new put heals it', async () => {
  await using temporary = await scratch();
  const store = await openBlobs(temporary.directory);
  const { hash } = await store.put(Buffer.from('right'));
  await writeFile(store.path(hash), 'wrong');
  await assert.rejects(gather(store.read(hash)), (error) => isCarrelError(error, 'internal'));
  await store.put(Buffer.from('right'));
  assert.equal((await gather(store.read(hash))).toString(), 'right');
});

test('garbage is what nobody uses and is old enough; what was put again meanwhile stays', async () => {
  await using temporary = await scratch();
  const store = await openBlobs(temporary.directory);
  const [used, old, young] = await Promise.all(
    ['used', 'old', 'young'].map((text) => store.put(Buffer.from(text))),
  );
  assert.ok(used && old && young);
  for (const { hash } of [used, old]) await utimes(store.path(hash), 1000, 1000);
  const found = [];
  for await (const blob of store.garbage((hash) => hash === used.hash)) found.push(blob);
  assert.deepEqual(
    found.map(({ hash }) => hash),
    [old.hash],
  );
  const [blob] = found;
  assert.ok(blob);
  await store.put(Buffer.from('old'));
  assert.equal(await store.remove(blob), false);
  assert.equal((await gather(store.read(old.hash))).toString(), 'old');
  await utimes(store.path(old.hash), 1000, 1000);
  assert.equal(await store.remove(blob), true);
  assert.equal(await store.remove(blob), true);
  assert.deepEqual(await hashes(store), [used.hash, young.hash].sort());
});

test('after a kill in the middle of a removal the blob is put back', async () => {
  await using temporary = await scratch();
  const store = await openBlobs(temporary.directory);
  const { hash } = await store.put(Buffer.from('x'));
  await rename(store.path(hash), join(temporary.directory, 'tmp', `${hash}.abc`));
  await openBlobs(temporary.directory);
  assert.equal((await gather(store.read(hash))).toString(), 'x');
  assert.deepEqual(await readdir(join(temporary.directory, 'tmp')), []);
});

test('writers and removers at the same time never lose what was put last', async () => {
  await using temporary = await scratch();
  const store = await openBlobs(temporary.directory);
  const data = Buffer.from('contended');
  const hash = sha256(data);
  for (let round = 0; round < 20; round += 1) {
    await store.put(data);
    await utimes(store.path(hash), 1000, 1000);
    const blob = await store.stat(hash);
    assert.ok(blob);
    await Promise.all([store.remove(blob), store.put(data), store.remove(blob), store.put(data)]);
    assert.equal((await gather(store.read(hash))).toString(), 'contended');
  }
});

test('writers killed at any moment leave only whole blobs', async () => {
  await using temporary = await scratch();
  const { directory } = temporary;
  const code = `
    const { openBlobs } = await import(${JSON.stringify(join(import.meta.dirname, 'blobs.ts'))});
    const { randomBytes } = await import('node:crypto');
    const store = await openBlobs(${JSON.stringify(directory)});
    console.log('ready');
    for (;;) await store.put(randomBytes(200_000));`;
  for (let round = 0; round < 4; round += 1) {
    const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await once(child.stdout, 'data');
    await new Promise((resolve) => setTimeout(resolve, 20 + round * 17));
    child.kill('SIGKILL');
    await once(child, 'close');
  }
  const store = await openBlobs(directory);
  for (const hash of await hashes(store)) assert.equal((await gather(store.read(hash))).length, 200_000);
  // Left over by the killed: removed once they are a day old.
  const tmp = join(directory, 'tmp');
  for (const name of await readdir(tmp)) assert.ok((await stat(join(tmp, name))).size <= 200_000);
});
