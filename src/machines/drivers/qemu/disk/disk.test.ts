/** Disks of machines that do not run: files and states only. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { dropDiskSnapshot, makeDisk, restoreDisk, snapshotDisk } from './disk.ts';
import { type DiskFiles, layerPath, requireState } from './files.ts';

const imageHash = 'a'.repeat(64);
const MiB = 2 ** 20;

async function withDisk(work: (files: DiskFiles) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-disk-'));
  try {
    const files = { directory, uid: process.getuid?.() ?? 0, bytes: 8 * MiB, image: '/nowhere/disk.qcow2' };
    await makeDisk(files, imageHash);
    await work(files);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const exceeded = (error: unknown): boolean => isCarrelError(error, 'quota_exceeded');

test('snapshots that are made and forgotten come to an end: their layers stay below the disk', async () => {
  await withDisk(async (files) => {
    let made = 0;
    await assert.rejects(async () => {
      for (; made < 1000; made += 1) {
        await snapshotDisk(files, 'one');
        await dropDiskSnapshot(files.directory, 'one');
      }
    }, exceeded);
    assert.equal(made, 63);
    const { layers, pending } = await requireState(files.directory);
    assert.equal(pending, null);
    assert.equal(readdirSync(join(files.directory, 'disk')).length, Object.keys(layers).length);
  });
});

test('a disk holds no more than a few times its length, and going back makes room', async () => {
  await withDisk(async (files) => {
    const fill = async (): Promise<void> => {
      const { active } = await requireState(files.directory);
      writeFileSync(layerPath(files.directory, active), Buffer.alloc(files.bytes, 1));
    };
    await snapshotDisk(files, 'empty');
    await assert.rejects(async () => {
      for (let n = 0; n < 100; n += 1) {
        await fill();
        await snapshotDisk(files, `full-${n}`);
      }
    }, exceeded);
    const { snapshots } = await requireState(files.directory);
    assert.ok(Object.keys(snapshots).length <= 6, Object.keys(snapshots).join(' '));
    await restoreDisk(files, 'empty');
    for (const name of Object.keys(snapshots)) await dropDiskSnapshot(files.directory, name);
    await snapshotDisk(files, 'again');
  });
});
