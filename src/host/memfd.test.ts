import assert from 'node:assert/strict';
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { createMemfd, sealMemfd } from './memfd.ts';
import { copySparse } from './sparse.ts';
import { errnoName, trySyscall } from './syscalls.ts';

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MiB = 2 ** 20;

function sparseFile(t: TestContext, bytes: number, pieces: Readonly<Record<number, Uint8Array>>): number {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-sparse-'));
  const fd = openSync(join(directory, 'ram'), 'w+');
  t.after(() => {
    closeSync(fd);
    rmSync(directory, { recursive: true });
  });
  ftruncateSync(fd, bytes);
  for (const [at, data] of Object.entries(pieces)) writeSync(fd, data, 0, data.length, Number(at));
  return fd;
}

function content(fd: number, bytes: number): Buffer {
  const data = Buffer.alloc(bytes);
  readSync(fd, data, 0, bytes, 0);
  return data;
}

test('a sealed file in memory cannot be written, grown, shrunk or mapped for writing, only mapped privately', () => {
  using memory = createMemfd('carrel-test', MiB);
  writeSync(memory.fd, Buffer.from('booted'), 0, 6, 0);
  sealMemfd(memory);
  assert.throws(() => writeSync(memory.fd, Buffer.from('x'), 0, 1, 0), { code: 'EPERM' });
  assert.throws(() => ftruncateSync(memory.fd, 2 * MiB), { code: 'EPERM' });
  assert.throws(() => ftruncateSync(memory.fd, 0), { code: 'EPERM' });
  const shared = trySyscall('mmap', null, MiB, PROT_READ_WRITE, MAP_SHARED, memory.fd, 0);
  assert.equal(errnoName(shared), 'EPERM');
  const own = trySyscall('mmap', null, MiB, PROT_READ_WRITE, MAP_PRIVATE, memory.fd, 0);
  assert.ok(own > 0, errnoName(own));
  assert.equal(trySyscall('munmap', own, MiB), 0);
  assert.throws(() => sealMemfd(memory), /EPERM/); // sealed against other seals, too
});

test('a seal is refused while somebody maps the file for writing', () => {
  using memory = createMemfd('carrel-test', MiB);
  const mapped = trySyscall('mmap', null, MiB, PROT_READ_WRITE, MAP_SHARED, memory.fd, 0);
  assert.throws(() => sealMemfd(memory), /EBUSY/);
  assert.equal(trySyscall('munmap', mapped, MiB), 0);
  sealMemfd(memory);
});

test('a sparse copy is equal byte for byte, and writes neither holes nor pages of zeros', async (t) => {
  const bytes = 8 * MiB + 1000;
  const source = sparseFile(t, bytes, {
    0: Buffer.from('first'),
    [MiB - 10]: Buffer.alloc(20, 7), // over the edge of a piece
    [3 * MiB]: Buffer.alloc(2 * MiB), // there, but zero
    [6 * MiB]: Buffer.alloc(5 * 4096 + 1, 9),
    [bytes - 3]: Buffer.from('end'), // in a page that is not whole
  });
  using target = createMemfd('carrel-test', bytes);
  const written = await copySparse(source, target.fd, bytes);
  assert.ok(content(target.fd, bytes).equals(content(source, bytes)));
  assert.ok(written < 64 * 1024, `${written} bytes written`);
  assert.ok(fstatSync(target.fd).blocks * 512 < 64 * 1024);
});

test('a file that is one hole takes nothing, and a copy can be called off', async (t) => {
  const hole = sparseFile(t, 4 * MiB, {});
  using target = createMemfd('carrel-test', 4 * MiB);
  assert.equal(await copySparse(hole, target.fd, 4 * MiB), 0);
  const full = sparseFile(t, MiB, { 0: Buffer.alloc(MiB, 1) });
  await assert.rejects(
    copySparse(full, target.fd, MiB, { signal: AbortSignal.abort(new Error('enough')) }),
    /enough/,
  );
});
