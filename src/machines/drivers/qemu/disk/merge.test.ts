/** Layers of disks of machines that do not run are merged by the real qemu-img, and what they show stays the same. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { linkSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { sleep } from '#base/deadline.ts';
import { dropDiskSnapshot, restoreDisk, snapshotDisk } from './disk.ts';
import { type DiskFiles, layerPath, requireState } from './files.ts';
import { locked } from './lock.ts';
import { mergeLayers, type MergeOptions } from './merge.ts';
import { chainText, fill, MiB, scribble, shown, skip, withDisk } from './testing.ts';

const merge = (files: DiskFiles, options?: MergeOptions): Promise<number> =>
  locked(files.directory, (lock) => mergeLayers(files, lock, options));

test(
  'snapshots that are forgotten take their layers along, and those that stay show what they showed',
  { skip },
  async () => {
    await withDisk(async (files) => {
      const expected = new Map<string, Buffer>();
      for (let n = 0; n < 12; n += 1) {
        await scribble(files, n);
        const before = await shown(files);
        await snapshotDisk(files, `s-${n}`);
        expected.set(`s-${n}`, before);
        if (n % 3 === 2) {
          await dropDiskSnapshot(files.directory, `s-${n - 1}`);
          expected.delete(`s-${n - 1}`);
          await merge(files);
        }
        if (n === 7) await restoreDisk(files, 's-3');
      }
      const now = await shown(files);
      for (const [name, bytes] of expected) assert.ok(bytes.equals(await shown(files, name)), name);
      for (const name of expected.keys()) await dropDiskSnapshot(files.directory, name);
      await merge(files);
      assert.ok(now.equals(await shown(files)));
      const { layers, active } = await requireState(files.directory);
      assert.deepEqual([layers, readdirSync(join(files.directory, 'disk'))], [{ 1: null }, ['1.qcow2']]);
      assert.equal(active, 1);
      execFileSync('qemu-img', ['check', '-q', '-f', 'qcow2', layerPath(files.directory, 1)]);
      assert.equal(await merge(files), 0);
    });
  },
);

test(
  'a layer that somebody else holds as well is not written to, and a short chain is left alone',
  { skip },
  async () => {
    await withDisk(async (files) => {
      await scribble(files, 1);
      await snapshotDisk(files, 'one');
      await scribble(files, 2);
      await dropDiskSnapshot(files.directory, 'one');
      assert.equal(await merge(files, { longest: 2 }), 0);
      const held = join(files.directory, 'held');
      linkSync(layerPath(files.directory, 1), held);
      const before = readFileSync(held);
      assert.equal(await merge(files), 0);
      assert.ok(before.equals(readFileSync(held)));
      rmSync(held);
      assert.equal(await merge(files), 1);
    });
  },
);

test('a merge that is killed anywhere leaves the disk as it was, and is done again', { skip }, async () => {
  await withDisk(
    async (files) => {
      await fill(files, 1, 0, 40 * MiB);
      await snapshotDisk(files, 'one');
      await fill(files, 2, 16 * MiB, 40 * MiB);
      await dropDiskSnapshot(files.directory, 'one');
      const before = await shown(files);
      for (let round = 0; round < 8; round += 1) {
        const child = spawn('qemu-img', ['commit', '-q', '-d', await chainText(files)], { stdio: 'inherit' });
        const exit = once(child, 'exit');
        await sleep(10 + 8 * round);
        child.kill('SIGKILL');
        await exit;
        assert.ok(before.equals(await shown(files)), `round ${round}`);
      }
      assert.equal(await merge(files), 1);
      assert.ok(before.equals(await shown(files)));
    },
    { bytes: 64 * MiB },
  );
});

test('a layer that says that its data is in another file is not opened', { skip }, async () => {
  await withDisk(async (files) => {
    await snapshotDisk(files, 'one');
    await dropDiskSnapshot(files.directory, 'one');
    const path = layerPath(files.directory, 2);
    const bytes = readFileSync(path);
    bytes.writeBigUInt64BE(4n, 72); // incompatible features: bit 2
    writeFileSync(path, bytes);
    await assert.rejects(merge(files), { code: 'validation_failed' });
    bytes.writeBigUInt64BE(0n, 72);
    writeFileSync(path, bytes);
    assert.equal(await merge(files), 1);
  });
});
