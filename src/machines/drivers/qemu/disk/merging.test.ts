/** When layers are merged: not at the cost of anybody, and not without end. With the real qemu-img. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '#base/deadline.ts';
import { createLogger } from '#base/log.ts';
import { launchOk } from '#host/launch.ts';
import { tryLock } from '#host/flock.ts';
import { keptPaths } from '#isolate/kept.ts';
import { dropDiskSnapshot, openDisk, snapshotDisk } from './disk.ts';
import { type DiskFiles, layerPath, requireState } from './files.ts';
import { createMerging, type Merging, pauses } from './merging.ts';
import { fill, MiB, shown, skip, withDisk } from './testing.ts';

const patienceMs = 120_000;

interface Scene extends AsyncDisposable {
  readonly merging: Merging;
  /** Messages so far, with their reasons. */
  readonly lines: readonly string[];
  /** The clock of the merging goes on. */
  pass(ms: number): void;
}

function scene(): Scene {
  const lines: string[] = [];
  let at = Date.now();
  const log = createLogger({ level: 'debug', write: (line) => void lines.push(line) });
  const merging = createMerging({ log, now: () => at });
  return { merging, lines, pass: (ms) => void (at += ms), [Symbol.asyncDispose]: () => merging.close() };
}

/** A layer of `bytes` that nobody asks for, over one that nobody asks for. */
async function grow(files: DiskFiles, bytes: number): Promise<void> {
  await fill(files, 1, 0, MiB);
  await snapshotDisk(files, 'one');
  await fill(files, 2, 0, bytes);
  await dropDiskSnapshot(files.directory, 'one');
}

const layersOf = async ({ directory }: DiskFiles): Promise<number> =>
  Object.keys((await requireState(directory)).layers).length;

const untilMerged = (files: DiskFiles): Promise<true> =>
  until(patienceMs, 'the layers to be merged', async () =>
    (await layersOf(files)) === 1 ? true : undefined,
  );

test(
  'whoever wants the disk gets it: a merge is broken off for him, and done another time',
  { skip },
  async () => {
    const bytes = 384 * MiB;
    await withDisk(
      async (files) => {
        await using at = scene();
        await grow(files, bytes);
        const broken = (): boolean => at.lines.some((line) => line.includes('broken off'));
        await at.merging.later(files);
        const layers = await openDisk(files.directory);
        assert.deepEqual(layers, [1, 2], 'what is to be opened is what it was');
        await until(patienceMs, 'it to be told', () => (broken() ? true : undefined));
        const before = await shown(files);
        assert.equal(existsSync(join(files.directory, 'merge.json')), false, 'that is no failure');
        await at.merging.later(files);
        await untilMerged(files);
        assert.ok(before.equals(await shown(files)));
      },
      { bytes },
    );
  },
);

test('those that wait for their turn are broken off as well, and closing ends all', { skip }, async () => {
  const bytes = 384 * MiB;
  await withDisk(
    async (first) => {
      await withDisk(async (second) => {
        await using at = scene();
        await grow(first, bytes);
        await grow(second, MiB);
        await at.merging.later(first);
        await at.merging.later(second);
        assert.deepEqual(await openDisk(second.directory), [1, 2]);
        await at.merging.close();
        assert.deepEqual([await layersOf(first), await layersOf(second)], [2, 2]);
        await at.merging.later(second);
        assert.equal(await layersOf(second), 2, 'closed');
      });
    },
    { bytes },
  );
});

test('while QEMU has the disk open nothing is merged', { skip }, async () => {
  await withDisk(async (files) => {
    await using at = scene();
    await grow(files, MiB);
    using keeper = tryLock(keptPaths(files.directory).lock);
    assert.ok(keeper);
    await at.merging.later(files, { asked: true });
    await at.merging.before(files, { longest: 0 });
    assert.deepEqual([await layersOf(files), at.lines], [2, []]);
  });
});

test('a start merges where there are too many layers', { skip }, async () => {
  await withDisk(async (files) => {
    await using at = scene();
    await grow(files, MiB);
    await at.merging.before(files, { longest: 2 });
    assert.equal(await layersOf(files), 2);
    await at.merging.before(files, { longest: 1 });
    assert.equal(await layersOf(files), 1);
  });
});

test('a failure is told with its reason, and is not tried again at once', { skip }, async () => {
  await withDisk(async (files) => {
    await using at = scene();
    await grow(files, MiB);
    const path = layerPath(files.directory, 2);
    const whole = readFileSync(path);
    const spoiled = Buffer.from(whole);
    spoiled.writeUInt32BE(0, 0); // no qcow2 any more
    writeFileSync(path, spoiled);
    const told = (): number => at.lines.filter((line) => line.includes('could not be merged')).length;
    await at.merging.before(files, { longest: 1 });
    assert.equal(told(), 1);
    assert.match(at.lines[0] ?? '', /"machine":"m-.*2\.qcow2 is not a layer as we make it/);
    await at.merging.before(files, { longest: 1 });
    assert.equal(told(), 1, 'not at once');
    at.pass(pauses.firstMs);
    await at.merging.before(files, { longest: 1 });
    assert.equal(told(), 2);
    at.pass(pauses.firstMs);
    await at.merging.before(files, { longest: 1 });
    assert.equal(told(), 2, 'longer after the second');
    await at.merging.later(files, { asked: true });
    await until(patienceMs, 'it to be tried for one who asked', () => (told() === 3 ? true : undefined));
    await openDisk(files.directory); // it has let go
    writeFileSync(path, whole);
    await at.merging.later(files, { asked: true });
    await untilMerged(files);
    await until(patienceMs, 'the failure to be forgotten', () =>
      existsSync(join(files.directory, 'merge.json')) ? undefined : true,
    );
  });
});

test(
  'nothing is merged for which the host has no room, and that is told',
  { skip: skip || (process.getuid?.() === 0 ? false : 'needs root') },
  async () => {
    const place = mkdtempSync(join(tmpdir(), 'carrel-small-'));
    const within = join(place, 'fs');
    mkdirSync(within);
    await launchOk(['mount', '-t', 'tmpfs', '-o', 'size=100m,mode=755', 'tmpfs', within]);
    try {
      await withDisk(
        async (files) => {
          await using at = scene();
          await grow(files, 40 * MiB);
          const before = await shown(files);
          await at.merging.before(files, { longest: 1 });
          assert.equal(await layersOf(files), 2);
          assert.match(
            at.lines[0] ?? '',
            /could not be merged.*layer 2 of the disk holds 40.* MiB.*the host has/,
          );
          await launchOk(['mount', '-o', 'remount,size=300m', within]);
          await at.merging.before(files, { longest: 1 });
          assert.equal(await layersOf(files), 2, 'not at once');
          at.pass(pauses.firstMs);
          await at.merging.before(files, { longest: 1 });
          assert.equal(await layersOf(files), 1);
          assert.ok(before.equals(await shown(files)));
        },
        { bytes: 64 * MiB, within },
      );
    } finally {
      await launchOk(['umount', within]);
      rmSync(place, { recursive: true });
    }
  },
);
