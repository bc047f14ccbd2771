/**
 * Layers that nobody asks for any more are merged: what was written last goes into the layer below, and that one takes
 * its place. It may be cut off anywhere: until the state says so the upper layer is still there, and hides all that has
 * got into the lower one. When it is done: see merging.ts.
 */
import { open, stat, statfs } from 'node:fs/promises';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { FileLock } from '#host/flock.ts';
import { runQemuImg } from '#images/disk/confined.ts';
import { layerFileBytes, vmPaths } from '../spec.ts';
import { settle } from './disk.ts';
import { collectGarbage, type DiskFiles, heldBytes, layerPath, loadState, saveState } from './files.ts';
import { isOpen } from './lock.ts';
import { chainOf, type DiskState, type Mergeable, mergeable, merged } from './state.ts';

/** Room that a merge leaves to others: their machines write meanwhile. Its own tables are much smaller. */
const reserveBytes = 64 * 2 ** 20;

export interface MergeOptions {
  /** Nothing is merged where the written layer has at most so many below and beside it. */
  readonly longest?: number | undefined;
  /** Breaks it off, which leaves the disk as good as it was. */
  readonly signal?: AbortSignal | undefined;
}

/** Has the disk layers that could be merged? A look without the lock, which may be mistaken. */
export async function hasMergeable(files: DiskFiles): Promise<boolean> {
  const state = await loadState(files.directory);
  return state !== undefined && !isOpen(files.directory) && (await cheapest(files, state)) !== undefined;
}

/**
 * Merges what can be, one pair after the other, and gives how many layers are gone. Under the lock. Nothing happens
 * while QEMU has the disk open. `disk_full`: the host has no room for what may be written meanwhile; whatever it throws,
 * the disk is as good as before.
 */
export async function mergeLayers(
  files: DiskFiles,
  lock: FileLock,
  { longest = 0, signal }: MergeOptions = {},
): Promise<number> {
  const { directory } = files;
  if (isOpen(directory)) return 0;
  let state = await settle(directory);
  for (let gone = 0; ; gone += 1) {
    const best = chainOf(state, state.active).length > longest ? await cheapest(files, state) : undefined;
    if (!best) return gone;
    signal?.throwIfAborted();
    await requireRoom(directory, best);
    await commit(files, chainOf(state, best.pair.upper), lock.fd, signal);
    state = merged(state, best.pair);
    await saveState(directory, state);
    await collectGarbage(directory, state);
  }
}

interface Priced {
  readonly pair: Mergeable;
  /** What the upper layer holds: the lower one grows by no more. */
  readonly bytes: number;
}

/** The pair with the least to be written. */
async function cheapest(files: DiskFiles, state: DiskState): Promise<Priced | undefined> {
  let best: Priced | undefined;
  for (const pair of mergeable(state)) {
    if (!(await isOurs(files, pair.lower))) continue;
    const bytes = await heldBytes(files.directory, [pair.upper]);
    if (!best || bytes < best.bytes) best = { pair, bytes };
  }
  return best;
}

async function requireRoom(directory: string, { pair, bytes }: Priced): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const free = bavail * bsize;
  if (free >= bytes + reserveBytes) return;
  throw new CarrelError(
    'disk_full',
    `layer ${pair.upper} of the disk holds ${formatSize(bytes)}, and to merge it takes as much and ${formatSize(reserveBytes)} to spare; the host has ${formatSize(free)}`,
  );
}

/** A layer of a template, or one that is being copied, is somebody else's as well. */
async function isOurs({ directory, uid }: DiskFiles, layer: number): Promise<boolean> {
  const facts = await stat(layerPath(directory, layer)).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined; // dropped a moment ago
    throw error;
  });
  return facts?.nlink === 1 && facts.uid === uid;
}

/** The image's descriptor in qemu-img: its user may not walk to where images are. Behind that of the lock. */
const imagePath = '/proc/self/fd/4';

/** Of the header (docs/interop/qcow2.txt): magic, version, and incompatible features, of which bit 0 says "not closed". */
const head = { bytes: 80, magic: 0x514649fb, version: 3, featuresAt: 72, passing: 1n } as const;

/** QEMU may have written anything there, and outside its jail a file that keeps its data elsewhere would lead there. */
async function refuseForeign(path: string): Promise<void> {
  await using file = await open(path, 'r');
  const { buffer, bytesRead } = await file.read(Buffer.alloc(head.bytes), 0, head.bytes, 0);
  const ours =
    bytesRead === head.bytes &&
    buffer.readUInt32BE(0) === head.magic &&
    buffer.readUInt32BE(4) === head.version &&
    (buffer.readBigUInt64BE(head.featuresAt) & ~head.passing) === 0n;
  if (!ours) throw new CarrelError('validation_failed', `${path} is not a layer as we make it`);
}

function node(filename: string, backing: object | null): object {
  return { driver: 'qcow2', file: { driver: 'file', filename }, backing };
}

/** Writes the highest layer of a chain into the one below. All formats and names are stated, as QEMU gets them. */
async function commit(
  { directory, uid, bytes, image }: DiskFiles,
  chain: readonly number[],
  lockFd: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const layer of chain) await refuseForeign(layerPath(directory, layer));
  await using base = await open(image, 'r');
  const source = chain.reduce((below, layer) => node(`${layer}.qcow2`, below), node(imagePath, null));
  await runQemuImg(['commit', '-q', '-d', `json:${JSON.stringify(source)}`], {
    directory: vmPaths(directory).disk,
    uid,
    fileBytes: layerFileBytes(bytes),
    lockFd,
    fds: [base.fd],
    signal,
  });
  await using lower = await open(layerPath(directory, chain.at(-2) ?? 0), 'r');
  await lower.sync();
}
