/** Files on disks, compared with what mke2fs(8) was given, and on disks that somebody has damaged. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { partitionEntry, partitionOffset } from '../mbr.ts';
import { writeOverlay } from '../overlay.ts';
import { openRootOf, readFileOnDisk } from './file.ts';
import { type DiskBytes, openLayers } from './layers.ts';

const directory = mkdtempSync(join(tmpdir(), 'carrel-inside-'));
after(() => rmSync(directory, { recursive: true, force: true }));
const at = (name: string): string => join(directory, name);

const diskBytes = 48 * 2 ** 20;
/** Blocks that are all alike would hide one read for another. */
const numbered = (bytes: number): Buffer =>
  Buffer.from(
    Array.from({ length: bytes / 4 }, (_, index) => [index & 255, (index >> 8) & 255, index >> 16, 7]).flat(),
  );

const root = at('root');
for (const name of ['etc', 'many', 'deep/er']) mkdirSync(join(root, name), { recursive: true });
writeFileSync(join(root, 'etc/motd'), 'hello\n', { mode: 0o640 });
writeFileSync(join(root, 'etc/empty'), '');
writeFileSync(join(root, 'large'), numbered(3 * 2 ** 20));
for (let n = 0; n < 1500; n += 1) writeFileSync(join(root, 'many', `file-${n}-${'x'.repeat(100)}`), `${n}`);
{
  writeFileSync(join(root, 'holes'), '');
  truncateSync(join(root, 'holes'), 2 ** 20);
  const file = await open(join(root, 'holes'), 'r+');
  await file.write('middle', 500_000);
  await file.close();
}
symlinkSync('../etc/motd', join(root, 'deep/link'));
symlinkSync('/deep/link', join(root, 'absolute'));
symlinkSync('../../../../../../etc/motd', join(root, 'climb'));
symlinkSync(`/etc/${'./'.repeat(100)}motd`, join(root, 'long'));
symlinkSync('loop', join(root, 'loop'));

function makeDisk(): void {
  writeFileSync(at('raw'), '');
  truncateSync(at('raw'), diskBytes);
  const kib = (diskBytes - partitionOffset) / 1024;
  const extended = `offset=${partitionOffset}`;
  const argv = ['-q', '-F', '-t', 'ext4', '-O', '64bit', '-d', root, '-E', extended, at('raw'), `${kib}k`];
  execFileSync('mke2fs', argv);
  const raw = readFileSync(at('raw'));
  const firstSector = partitionOffset / 512;
  raw.set(partitionEntry({ firstSector, sectors: diskBytes / 512 - firstSector }), 0x1be);
  raw.writeUInt16LE(0xaa55, 510);
  writeFileSync(at('raw'), raw);
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', at('raw'), at('base.qcow2')]);
}
makeDisk();
const raw = readFileSync(at('raw'));

const code = (expected: string) => (error: unknown) => isCarrelError(error) && error.code === expected;
const limit = { maxBytes: 4 * 2 ** 20 };

test('files are found by their paths and links, in directories of any length, and read as they were written', async () => {
  await using disk = await openLayers([at('base.qcow2')]);
  const system = await openRootOf(disk);
  const read = async (path: string): Promise<Buffer> =>
    Buffer.from((await readFileOnDisk(system, path, limit)).bytes);
  assert.equal((await readFileOnDisk(system, '/etc/motd', limit)).mode, 0o640);
  for (const path of ['/etc/motd', '/deep/link', '/absolute', '/climb', '/long', '/deep/er/../../etc/motd'])
    assert.equal((await read(path)).toString(), 'hello\n', path);
  assert.equal((await read('/etc/empty')).length, 0);
  assert.ok((await read('/large')).equals(numbered(3 * 2 ** 20)));
  assert.ok((await read('/holes')).equals(readFileSync(join(root, 'holes'))));
  for (const n of [0, 777, 1499])
    assert.equal((await read(`/many/file-${n}-${'x'.repeat(100)}`)).toString(), `${n}`);
});

test('what is no file, or too large, is refused by name', async () => {
  await using disk = await openLayers([at('base.qcow2')]);
  const system = await openRootOf(disk);
  const read = (path: string, maxBytes = 1000) => readFileOnDisk(system, path, { maxBytes });
  await assert.rejects(read('/etc/nothing'), code('not_found'));
  await assert.rejects(read('/nowhere/motd'), code('not_found'));
  await assert.rejects(read('/etc/motd/x'), code('invalid_request'));
  await assert.rejects(read('/etc'), code('invalid_request'));
  await assert.rejects(read('/loop'), code('invalid_request'));
  await assert.rejects(read('/large'), code('too_large'));
});

test('a layer shows what lies below it but for what was written to it', async () => {
  await writeOverlay(at('1.qcow2'), { backing: at('base.qcow2'), bytes: 2 * diskBytes });
  const where = raw.indexOf('hello\n');
  assert.ok(where > 0);
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', `write -P 0x41 ${where - (where % 512)} 512`, at('1.qcow2')]);
  await writeOverlay(at('2.qcow2'), { backing: at('1.qcow2'), bytes: 2 * diskBytes });
  await using disk = await openLayers([at('base.qcow2'), at('1.qcow2'), at('2.qcow2')]);
  assert.equal(disk.bytes, 2 * diskBytes);
  const changed = Buffer.from(raw);
  changed.fill(0x41, where - (where % 512), where - (where % 512) + 512);
  assert.ok((await disk.read(0, diskBytes)).equals(changed));
  assert.ok((await disk.read(diskBytes, 70_000)).equals(Buffer.alloc(70_000)));
  const { bytes } = await readFileOnDisk(await openRootOf(disk), '/etc/motd', limit);
  assert.equal(Buffer.from(bytes).toString(), 'AAAAAA');
});

test('a path that goes through one directory of holes again and again is given up, not paid for', async () => {
  // what a machine's root can make of his disk: its root directory is its own "lost+found", and 15 MiB long
  const forged = Buffer.from(raw);
  const at = partitionOffset;
  const blockBytes = 1024 << forged.readUInt32LE(at + 1024 + 0x18);
  const groupsAt = at + (forged.readUInt32LE(at + 1024 + 0x14) + 1) * blockBytes;
  const inodeAt = at + forged.readUInt32LE(groupsAt + 8) * blockBytes + forged.readUInt16LE(at + 1024 + 0x58);
  forged.writeUInt32LE(15 * 2 ** 20, inodeAt + 4);
  const directoryAt = at + forged.readUInt32LE(inodeAt + 0x28 + 20) * blockBytes;
  const entry = forged.indexOf('lost+found', directoryAt) - 8;
  forged.writeUInt32LE(2, entry);
  let read = 0;
  const disk = bytesOf(forged);
  const counted: DiskBytes = { ...disk, read: (from, length) => ((read += 1), disk.read(from, length)) };
  const path = `${'/lost+found'.repeat(500)}/x`;
  await assert.rejects(
    readFileOnDisk(await openRootOf(counted), path, limit),
    (error) => isCarrelError(error, 'validation_failed') && /too much/.test(error.message),
  );
  assert.ok(read < 50, `${read} reads`);
});

const bytesOf = (content: Buffer): DiskBytes => ({
  bytes: content.length,
  read: async (offset, length) => {
    const part = Buffer.alloc(length);
    content.copy(part, 0, offset, offset + length);
    return part;
  },
});

test('a file system that was not unmounted is told from one that is damaged, and from none', async () => {
  const features = partitionOffset + 1024 + 0x60;
  const dirty = Buffer.from(raw);
  dirty.writeUInt32LE(dirty.readUInt32LE(features) | 0x4, features);
  await assert.rejects(openRootOf(bytesOf(dirty)), code('wrong_state'));
  await assert.rejects(openRootOf(bytesOf(Buffer.alloc(diskBytes))), code('validation_failed'));
  const empty = Buffer.from(raw);
  empty.fill(0, partitionOffset);
  await assert.rejects(openRootOf(bytesOf(empty)), code('validation_failed'));
});

test('property: whatever is written over a disk, reading ends in bytes or in an error with a name', async () => {
  // where the file system keeps its own records: superblock, descriptors, inodes, directories
  const part = 600_000;
  const flips = fc.array(fc.tuple(fc.nat(part - 1), fc.integer({ min: 0, max: 255 })), {
    minLength: 1,
    maxLength: 200,
  });
  const inSuperblock = fc.array(fc.tuple(fc.integer({ min: 1024, max: 2047 }), fc.nat(255)), {
    minLength: 1,
    maxLength: 4,
  });
  await fc.assert(
    fc.asyncProperty(fc.oneof(flips, inSuperblock), async (changes) => {
      const head = Buffer.from(raw.subarray(partitionOffset, partitionOffset + part));
      for (const [offset, value] of changes) head[offset] = value;
      const disk: DiskBytes = {
        bytes: raw.length,
        read: async (offset, length) => {
          const out = Buffer.alloc(length);
          if (offset < raw.length) raw.copy(out, 0, offset, offset + length);
          if (offset < partitionOffset + part)
            head.copy(out, Math.max(0, partitionOffset - offset), Math.max(0, offset - partitionOffset));
          return out;
        },
      };
      try {
        const system = await openRootOf(disk);
        for (const path of ['/etc/motd', '/absolute', '/large'])
          await readFileOnDisk(system, path, limit).catch((error: unknown) =>
            assert.ok(isCarrelError(error), String(error)),
          );
      } catch (error) {
        assert.ok(isCarrelError(error), String(error));
      }
    }),
    { numRuns: 300 },
  );
});

test('property: a layer that is damaged gives bytes or an error with a name', async () => {
  await writeOverlay(at('whole.qcow2'), { backing: at('base.qcow2'), bytes: diskBytes });
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', 'write -P 0x42 1M 256k', at('whole.qcow2')]);
  const whole = readFileSync(at('whole.qcow2'));
  const change = fc.tuple(
    fc.oneof(fc.nat(119), fc.integer({ min: 3 * 65_536, max: 3 * 65_536 + 63 }), fc.nat(whole.length - 1)),
    fc.nat(255),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 6 }), async (changes) => {
      const bytes = Buffer.from(whole);
      for (const [offset, value] of changes) bytes[offset] = value;
      writeFileSync(at('damaged.qcow2'), bytes);
      try {
        await using disk = await openLayers([at('base.qcow2'), at('damaged.qcow2')]);
        assert.equal((await disk.read(2 ** 20 - 512, 2 ** 18)).length, 2 ** 18);
      } catch (error) {
        assert.ok(isCarrelError(error), String(error));
      }
    }),
    { numRuns: 100 },
  );
});
