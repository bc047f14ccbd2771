/** The small formats that a disk is made of. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { CarrelError } from '#base/errors.ts';
import { unpackKernel } from './bzimage.ts';
import { cpioArchive } from './cpio.ts';
import { unpackBlock, unpackLz4Legacy } from './lz4.ts';
import { bootArea, partitionEntry, partitionOffset, readPartition } from './mbr.ts';
import { parseModulesDep } from './modules.ts';

const MiB = 2 ** 20;

test('the first megabyte holds GRUB, its core, and a table with one partition to the end of the disk', () => {
  const boot = Buffer.alloc(512, 0xeb);
  const core = Buffer.from('core');
  const area = bootArea({ boot, core, diskBytes: 256 * MiB, signature: 0xdeadbeef });
  assert.equal(area.length, partitionOffset);
  assert.deepEqual(readPartition(area), { firstSector: 2048, sectors: (255 * MiB) / 512 });
  assert.equal(area.readUInt32LE(0x1b8), 0xdeadbeef);
  assert.equal(area.readBigUInt64LE(0x5c), 1n);
  assert.equal(area[0x64], 0xff);
  assert.equal(area.toString('latin1', 512, 516), 'core');
  assert.throws(() => bootArea({ boot, core: Buffer.alloc(MiB), diskBytes: 256 * MiB, signature: 0 }), /fit/);
  assert.throws(() => bootArea({ boot: core, core, diskBytes: 256 * MiB, signature: 0 }), /boot\.img/);
});

test('a partition is read as it was written, wherever it lies below 2 TiB', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 2 ** 31 }),
      fc.integer({ min: 1, max: 2 ** 31 - 2 }),
      (firstSector, sectors) => {
        const record = Buffer.alloc(512);
        record.set(partitionEntry({ firstSector, sectors }), 0x1be);
        assert.equal(readPartition(record), undefined);
        record.writeUInt16LE(0xaa55, 510);
        assert.deepEqual(readPartition(record), { firstSector, sectors });
      },
    ),
  );
  assert.throws(() => partitionEntry({ firstSector: 2 ** 31, sectors: 2 ** 31 }), CarrelError);
});

test('a RAM disk has the directories above its files, and a path only once', () => {
  const archive = cpioArchive([
    { path: 'seed/once/etc/hostname', kind: 'file', mode: 0o600, data: 'web\n' },
    { path: 'seed/once/root', kind: 'directory', mode: 0o700 },
    { path: 'bin/sh', kind: 'symlink', target: 'busybox' },
  ]);
  assert.equal(archive.length % 512, 0);
  assert.throws(
    () =>
      cpioArchive([
        { path: 'a', kind: 'directory' },
        { path: 'a', kind: 'directory' },
      ]),
    CarrelError,
  );
  assert.throws(() => cpioArchive([{ path: '/a', kind: 'directory' }]), CarrelError);
  if (!existsSync('/bin/busybox')) return;
  const listed = execFileSync('/bin/busybox', ['cpio', '-tv'], {
    input: archive,
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  const lines = listed.toString().trimEnd().split('\n');
  assert.deepEqual(
    lines.map((line) => `${line.slice(0, 10)} ${line.replace(/^.*\d\d:\d\d:\d\d /, '')}`),
    [
      'drwxr-xr-x seed',
      'drwxr-xr-x seed/once',
      'drwxr-xr-x seed/once/etc',
      '-rw------- seed/once/etc/hostname',
      'drwx------ seed/once/root',
      'drwxr-xr-x bin',
      'lrwxrwxrwx bin/sh -> busybox',
    ],
  );
});

/** Literals only; the end of a block needs no match. */
const literals = (text: string): number[] => [text.length << 4, ...Buffer.from(text)];

test('LZ4 copies from what it has just written', () => {
  const out = Buffer.alloc(20);
  // "ab", then 10 bytes from 2 back, then "!".
  const end = unpackBlock(Uint8Array.from([0x26, 0x61, 0x62, 2, 0, ...literals('!')]), out, 0);
  assert.equal(out.toString('latin1', 0, end), 'abababababab!');
  const frame = Buffer.from([0x02, 0x21, 0x4c, 0x18, 6, 0, 0, 0, ...literals('hello')]);
  assert.equal(unpackLz4Legacy(frame, { limit: 100 }).toString(), 'hello');
  assert.throws(() => unpackLz4Legacy(frame, { limit: 4 }), /more than 4/);
});

test('damaged LZ4 is refused and never read or written outside', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      const out = Buffer.alloc(256);
      try {
        assert.ok(unpackBlock(bytes, out.subarray(0, 128), 0) <= 128);
      } catch (error) {
        assert.ok(error instanceof CarrelError);
      }
      assert.ok(out.subarray(128).every((byte) => byte === 0));
    }),
    { numRuns: 2000 },
  );
});

test('what is no bzImage is refused', () => {
  assert.throws(() => unpackKernel(Buffer.alloc(0x300)), /no setup header/);
  const head = Buffer.alloc(0x800);
  head.write('HdrS', 0x202, 'latin1');
  head.writeUInt16LE(0x20f, 0x206);
  head.writeUInt32LE(0x1000, 0x24c);
  assert.throws(() => unpackKernel(head), /cut off/);
});

test('the needs of a module come in the order of the file', () => {
  const needs = parseModulesDep('a/x.ko: b/y.ko c/z.ko\nc/z.ko:\n\n');
  assert.deepEqual(needs.get('a/x.ko'), ['b/y.ko', 'c/z.ko']);
  assert.deepEqual(needs.get('c/z.ko'), []);
});
