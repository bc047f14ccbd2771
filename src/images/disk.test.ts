import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { checkDisk, copyLayer, createDisk, layerBytes, requireDiskSize } from './disk.ts';
import type { Image } from './layout.ts';
import { openImages } from './store.ts';
import { inPieces, scratch } from './testing.ts';

const skip = existsSync('/usr/bin/qemu-img') ? false : 'qemu-img is not installed';
const MiB = 2 ** 20;

test('a disk shorter than its image is refused with the minimum', () => {
  const image = {
    name: 'd',
    kind: 'disk',
    disk: { virtualBytes: 256 * MiB, boot: null, agent: false },
  } as const;
  requireDiskSize(image, 256 * MiB);
  assert.throws(
    () => requireDiskSize(image, 256 * MiB - 512),
    (error) => isCarrelError(error, 'validation_failed') && error.hint === 'it needs at least 256 MiB',
  );
  assert.throws(
    () => requireDiskSize({ name: 'busybox', kind: 'rootfs' }, 2 ** 40),
    (error) => isCarrelError(error, 'driver_unsupported'),
  );
});

async function imageIn(directory: string): Promise<Image> {
  const images = await openImages({ cache: join(directory, 'cache') });
  const raw = Buffer.alloc(4 * MiB, 'content');
  return images.import({ name: 'd', format: 'raw', source: inPieces(raw, 65_536) });
}

test('a machine’s disk shows the image, grows beyond it, and holds nothing by itself', { skip }, async () => {
  await using temporary = await scratch();
  const image = await imageIn(temporary.directory);
  const disk = join(temporary.directory, 'disk.qcow2');
  await createDisk(image, disk, 64 * MiB);
  await assert.rejects(createDisk(image, join(temporary.directory, 'small'), MiB), /too small/);
  assert.equal(await checkDisk(disk), 'clean');
  assert.ok((await layerBytes(disk)) < MiB);
  execFileSync('qemu-img', ['compare', '-s', '-f', 'qcow2', '-F', 'qcow2', image.path, image.path]);
  const copy = join(temporary.directory, 'copy.qcow2');
  await copyLayer(disk, copy);
  execFileSync('qemu-img', ['compare', '-f', 'qcow2', '-F', 'qcow2', disk, copy]);
  await assert.rejects(copyLayer(disk, copy), /EEXIST/);
});

test('a damaged disk is told from one that only leaks', { skip }, async () => {
  await using temporary = await scratch();
  const image = await imageIn(temporary.directory);
  const disk = join(temporary.directory, 'disk.qcow2');
  await createDisk(image, disk, 64 * MiB);
  const file = await open(disk, 'r+');
  // A fifth cluster that is counted, and used by nobody: what a power cut leaves.
  await file.truncate(5 * 65_536);
  await file.write(Uint8Array.of(0, 1), 0, 2, 2 * 65_536 + 8);
  assert.equal(await checkDisk(disk), 'leaked');
  // The first table points into the refcounts.
  await file.write(Uint8Array.of(0x80, 0, 0, 0, 0, 1, 0, 0), 0, 8, 3 * 65_536);
  await file.close();
  await assert.rejects(checkDisk(disk), (error) => isCarrelError(error, 'machine_lost'));
  await writeFile(disk, 'no disk');
  await assert.rejects(checkDisk(disk), (error) => isCarrelError(error, 'helper_failed'));
});
