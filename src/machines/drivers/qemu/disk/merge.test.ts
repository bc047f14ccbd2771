/** Layers of disks of machines that do not run are merged by the real qemu-img, and what they show stays the same. */
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { sleep } from '#base/deadline.ts';
import { dropDiskSnapshot, makeDisk, openDisk, restoreDisk, snapshotDisk } from './disk.ts';
import { type DiskFiles, layerPath, requireState } from './files.ts';
import { mergeLayers } from './merge.ts';
import { chainOf, snapshotLayer } from './state.ts';

const MiB = 2 ** 20;
const cluster = 65_536;
const skip =
  existsSync('/usr/bin/qemu-img') && existsSync('/usr/bin/qemu-io') ? false : 'qemu-utils is not installed';

async function withDisk(work: (files: DiskFiles) => Promise<void>, bytes = 8 * MiB): Promise<void> {
  const above = mkdtempSync(join(tmpdir(), 'carrel-merge-'));
  try {
    const asRoot = process.getuid?.() === 0;
    const uid = asRoot ? 1_234_567 : (process.getuid?.() ?? 0);
    const image = join(above, 'image.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(4 * MiB)]);
    execFileSync('qemu-io', ['-f', 'qcow2', '-c', `write -q -P 7 0 ${4 * MiB}`, image]);
    chmodSync(image, 0o444);
    const directory = mkdtempSync(join(above, 'm-'));
    if (asRoot) chmodSync(above, 0o711);
    const files = { directory, uid, bytes, image };
    await makeDisk(files, 'a'.repeat(64));
    await work(files);
  } finally {
    rmSync(above, { recursive: true, force: true });
  }
}

async function chainText({ directory, image }: DiskFiles, snapshot?: string): Promise<string> {
  const state = await requireState(directory);
  const layer = snapshot === undefined ? state.active : snapshotLayer(state, snapshot);
  const paths = [image, ...chainOf(state, layer).map((each) => layerPath(directory, each))];
  const source = paths.reduce<object | null>(
    (backing, filename) => ({ driver: 'qcow2', file: { driver: 'file', filename }, backing }),
    null,
  );
  return `json:${JSON.stringify(source)}`;
}

async function shown(files: DiskFiles, snapshot?: string): Promise<Buffer> {
  const raw = join(files.directory, 'raw');
  execFileSync('qemu-img', ['convert', '-O', 'raw', await chainText(files, snapshot), raw]);
  const bytes = readFileSync(raw);
  rmSync(raw);
  return bytes;
}

/** As a guest would: data, zeros that are data, and what it gives back. */
async function scribble(files: DiskFiles, seed: number): Promise<void> {
  const at = (n: number): number => ((seed * 7 + n * 13) % 100) * cluster;
  const commands = [
    `write -q -P ${1 + (seed % 250)} ${at(0)} ${3 * cluster}`,
    `write -q -z -u ${at(1)} ${2 * cluster}`,
    `discard -q ${at(2)} ${cluster}`,
    `write -q -P ${2 + (seed % 250)} ${at(3) + 512} 1024`,
  ];
  execFileSync('qemu-io', [
    ...commands.flatMap((each) => ['-c', each]),
    '-d',
    'unmap',
    await chainText(files),
  ]);
  for (const layer of await openDisk(files.directory))
    chownSync(layerPath(files.directory, layer), files.uid, files.uid);
}

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
          await mergeLayers(files);
        }
        if (n === 7) await restoreDisk(files, 's-3');
      }
      const now = await shown(files);
      for (const [name, bytes] of expected) assert.ok(bytes.equals(await shown(files, name)), name);
      for (const name of expected.keys()) await dropDiskSnapshot(files.directory, name);
      await mergeLayers(files);
      assert.ok(now.equals(await shown(files)));
      const { layers, active } = await requireState(files.directory);
      assert.deepEqual([layers, readdirSync(join(files.directory, 'disk'))], [{ 1: null }, ['1.qcow2']]);
      assert.equal(active, 1);
      execFileSync('qemu-img', ['check', '-q', '-f', 'qcow2', layerPath(files.directory, 1)]);
      assert.equal(await mergeLayers(files), 0);
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
      assert.equal(await mergeLayers(files, { longest: 2 }), 0);
      const held = join(files.directory, 'held');
      linkSync(layerPath(files.directory, 1), held);
      const before = readFileSync(held);
      assert.equal(await mergeLayers(files), 0);
      assert.ok(before.equals(readFileSync(held)));
      rmSync(held);
      assert.equal(await mergeLayers(files), 1);
    });
  },
);

test('a merge that is killed anywhere leaves the disk as it was, and is done again', { skip }, async () => {
  await withDisk(async (files) => {
    const fill = async (byte: number, from: number): Promise<void> => {
      execFileSync('qemu-io', ['-c', `write -q -P ${byte} ${from} ${40 * MiB}`, await chainText(files)]);
    };
    await fill(1, 0);
    await snapshotDisk(files, 'one');
    await fill(2, 16 * MiB);
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
    assert.equal(await mergeLayers(files), 1);
    assert.ok(before.equals(await shown(files)));
  }, 64 * MiB);
});

test('a layer that says that its data is in another file is not opened', { skip }, async () => {
  await withDisk(async (files) => {
    await snapshotDisk(files, 'one');
    await dropDiskSnapshot(files.directory, 'one');
    const path = layerPath(files.directory, 2);
    const bytes = readFileSync(path);
    bytes.writeBigUInt64BE(4n, 72); // incompatible features: bit 2
    writeFileSync(path, bytes);
    assert.equal(await mergeLayers(files), 0);
    bytes.writeBigUInt64BE(0n, 72);
    writeFileSync(path, bytes);
    assert.equal(await mergeLayers(files), 1);
  });
});
