/**
 * What can be done with a machine's disk, running or not: made, copied, kept as a snapshot, put back. One at a time
 * (disk.lock), and each step may be cut off anywhere and done again.
 */
import { link, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { SnapshotFacts } from '../../../driver.ts';
import { layerOptions } from '../argv.ts';
import { nothing, type Qmp, withQmp } from '../qmp.ts';
import { vmPaths } from '../spec.ts';
import {
  collectGarbage,
  copyLayer,
  type DiskFiles,
  heldBytes,
  layerPath,
  loadState,
  makeDiskDirectory,
  makeLayer,
  requireState,
  saveState,
} from './files.ts';
import { isOpen, locked } from './lock.ts';
import {
  begun,
  chainOf,
  cloned,
  type DiskState,
  forgotten,
  layerOf,
  newDisk,
  nodeOf,
  restored,
  settled,
  snapshotLayer,
  snapshotted,
} from './state.ts';

/** An untouched layer: header, refcounts, table, each a cluster of 64 KiB (overlay.ts). */
const emptyLayerBytes = 4 * 65_536;
/** QEMU has all of them open, and each read that finds nothing goes through all of them. */
const maxLayers = 64;
/**
 * What the layers of a disk may hold together before another one is begun, in lengths of the disk: each can become as
 * long as the disk, and one on which another lies stays when its snapshot is forgotten. So a disk ends at one more.
 */
const maxLengths = 4;
/** A layer as QEMU's jail sees it. */
export const layerInJail = (layer: number): string => `/machine/disk/${layer}.qcow2`;

const blockDevices = z.array(
  z.object({
    qdev: z.string().optional(),
    inserted: z.object({ 'node-name': z.string().optional() }).optional(),
  }),
);

/** The layer that QEMU writes to. */
async function writtenLayer(qmp: Qmp): Promise<number> {
  for (const { inserted } of await qmp.execute('query-block', {}, blockDevices)) {
    const layer = layerOf(inserted?.['node-name'] ?? '');
    if (layer !== undefined) return layer;
  }
  throw new CarrelError('helper_failed', 'QEMU does not say which layer of the disk it writes to');
}

/** The state, without a step that was cut off; `finishing`: see `settled`. Under the lock. */
export async function settle(directory: string, finishing?: string): Promise<DiskState> {
  const state = await requireState(directory);
  if (!state.pending) return state;
  const { layer } = state.pending;
  const written = isOpen(directory)
    ? await withQmp(directory, async (qmp) => {
        const open = await writtenLayer(qmp);
        // it may have been told of the new one already, but not to use it
        if (open !== layer) await forgetNode(qmp, layer);
        return open;
      })
    : undefined;
  const now = settled(state, written, finishing);
  await saveState(directory, now);
  return now;
}

/** The disk of a new machine over its image; nothing happens if there is one. */
export async function makeDisk(files: DiskFiles, imageHash: string): Promise<void> {
  await makeDiskDirectory(files.directory);
  await locked(files.directory, async () => {
    if (await loadState(files.directory)) return;
    await makeLayer(files, 1, null);
    await saveState(files.directory, newDisk(imageHash, files.bytes));
  });
}

export interface DiskSource {
  readonly directory: string;
  /** null: as it is now, of a running machine as after a power cut, see flush.ts. */
  readonly snapshot: string | null;
}

/**
 * The disk of a new machine as a copy of another's. Nothing is shared: what the other one still writes is set aside
 * first, so that it goes on meanwhile. Nothing happens if there is a disk.
 */
export async function copyDisk(files: DiskFiles, source: DiskSource): Promise<void> {
  const { directory } = files;
  await makeDiskDirectory(directory);
  await locked(directory, async () => {
    if (await loadState(directory)) return;
    const { state, layers } = await borrow(files, source);
    for (const layer of layers) {
      const borrowed = borrowedPath(directory, layer);
      await copyLayer(borrowed, files, layer);
      await rm(borrowed);
    }
    await makeLayer(files, state.active, state.layers[state.active] ?? null);
    await saveState(directory, state);
    await collectGarbage(directory, state);
  });
}

const borrowedPath = (directory: string, layer: number): string =>
  join(vmPaths(directory).disk, `${layer}.borrowed`);

/** Links to the other one's layers, which live on under them whatever becomes of it: so its lock is held for a moment. */
async function borrow(
  { directory, bytes }: DiskFiles,
  source: DiskSource,
): Promise<{ state: DiskState; layers: readonly number[] }> {
  return locked(source.directory, async () => {
    const before = await settle(source.directory);
    if (bytes < before.bytes)
      throw new CarrelError(
        'validation_failed',
        `disk size ${formatSize(bytes)} is smaller than ${formatSize(before.bytes)} of the disk that is copied`,
      );
    const layer =
      source.snapshot === null
        ? await setAside(source.directory, before)
        : snapshotLayer(before, source.snapshot);
    const now = await requireState(source.directory);
    const layers = chainOf(now, layer);
    for (const each of layers) {
      await rm(borrowedPath(directory, each), { force: true });
      await link(layerPath(source.directory, each), borrowedPath(directory, each));
    }
    return { state: cloned(now, layer, bytes), layers };
  });
}

/** Makes what is written now a layer that is not written any more, without a name; gives that layer. */
async function setAside(directory: string, state: DiskState): Promise<number> {
  const { active } = state;
  const { uid, size } = await stat(layerPath(directory, active));
  const below = state.layers[active] ?? null;
  // nothing has been written to it since it was made
  if (!isOpen(directory) && size === emptyLayerBytes && below !== null) return below;
  await keep({ directory, uid, bytes: state.bytes, image: '' }, state, null);
  return active;
}

/** The written layer is kept, and a new one is written. Under the lock; `state` is settled. */
async function keep(files: DiskFiles, state: DiskState, snapshot: string | null): Promise<DiskState> {
  const { directory } = files;
  await refuseMore(directory, state);
  await makeLayer({ ...files, bytes: state.bytes }, state.next, state.active);
  if (!isOpen(directory)) {
    const now = snapshotted(state, snapshot);
    await saveState(directory, now);
    return now;
  }
  const pending = begun(state, snapshot);
  await saveState(directory, pending);
  const written = await withQmp(directory, (qmp) => switchLayer(qmp, state.active, state.next));
  const now = written === state.next ? snapshotted(state, snapshot) : settled(pending, written);
  await saveState(directory, now);
  return now;
}

/** A machine's user could fill the host's disk with layers: `quota_exceeded` for one too many. */
async function refuseMore(directory: string, { layers, bytes }: DiskState): Promise<void> {
  const all = Object.keys(layers).map(Number);
  const held = await heldBytes(directory, all);
  if (all.length < maxLayers && held <= maxLengths * bytes) return;
  throw new CarrelError(
    'quota_exceeded',
    all.length < maxLayers
      ? `the disk of ${formatSize(bytes)} and what lies below it since its snapshots and copies hold ${formatSize(held)} of the host's`
      : `the disk consists of ${all.length} layers, one for each snapshot and copy since it was made`,
    { hint: 'stop the machine and delete snapshots: what nobody asks for any more is merged then' },
  );
}

/** Tells QEMU to go on in the new layer. */
async function switchLayer(qmp: Qmp, from: number, to: number): Promise<number> {
  const layer = { node: nodeOf(to), path: layerInJail(to) };
  await qmp.execute('blockdev-add', layerOptions(layer, null, { writable: true }), nothing);
  try {
    await qmp.execute('blockdev-snapshot', { node: nodeOf(from), overlay: layer.node }, nothing);
  } catch (error) {
    await forgetNode(qmp, to);
    throw error;
  }
  return writtenLayer(qmp);
}

/** Nothing happens if QEMU does not know it, or uses it. */
async function forgetNode(qmp: Qmp, layer: number): Promise<void> {
  await qmp.execute('blockdev-del', { 'node-name': nodeOf(layer) }, nothing).catch(() => undefined);
}

/** The disk as it is now, under this name; of a running machine as after a power cut, see flush.ts. */
export async function snapshotDisk(files: DiskFiles, snapshot: string): Promise<SnapshotFacts> {
  return locked(files.directory, async () => {
    const before = await settle(files.directory, snapshot);
    const now = Object.hasOwn(before.snapshots, snapshot) ? before : await keep(files, before, snapshot);
    await collectGarbage(files.directory, now);
    return { bytes: await heldBytes(files.directory, [snapshotLayer(now, snapshot)]) };
  });
}

/** Refuses while QEMU has the disk open. */
export async function restoreDisk(files: DiskFiles, snapshot: string): Promise<void> {
  const { directory } = files;
  await locked(directory, async () => {
    if (isOpen(directory)) throw new CarrelError('wrong_state', 'a disk that is in use cannot be put back');
    const before = await settle(directory);
    await makeLayer({ ...files, bytes: before.bytes }, before.next, snapshotLayer(before, snapshot));
    const now = restored(before, snapshot);
    await saveState(directory, now);
    await collectGarbage(directory, now);
  });
}

/** Forgets the snapshot; nothing happens if there is none. */
export async function dropDiskSnapshot(directory: string, snapshot: string): Promise<void> {
  if (!(await loadState(directory))) return;
  await locked(directory, async () => {
    const now = forgotten(await settle(directory), snapshot);
    await saveState(directory, now);
    await collectGarbage(directory, now);
  });
}

/** The layers for QEMU to open, from the lowest; what a step left that was cut off is put in order first. */
export async function openDisk(directory: string): Promise<readonly number[]> {
  return locked(directory, async () => {
    const state = await settle(directory);
    await collectGarbage(directory, state);
    return chainOf(state, state.active);
  });
}

/** What the disk and its snapshots hold of the host's. */
export async function diskUsage(directory: string): Promise<number | null> {
  const state = await loadState(directory);
  return state ? heldBytes(directory, Object.keys(state.layers).map(Number)) : null;
}
