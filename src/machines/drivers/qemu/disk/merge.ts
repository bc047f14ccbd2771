/**
 * Layers that nobody asks for any more are merged: what was written last goes into the layer below, and that one takes
 * its place. It may be cut off anywhere: until the state says so the upper layer is still there, and hides all that has
 * got into the lower one.
 */
import { open, stat } from 'node:fs/promises';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { runQemuImg } from '#images/disk/confined.ts';
import { layerFileBytes, vmPaths } from '../spec.ts';
import { isOpen, locked, settle } from './disk.ts';
import { collectGarbage, type DiskFiles, heldBytes, layerPath, loadState, saveState } from './files.ts';
import { chainOf, type DiskState, type Mergeable, mergeable, merged } from './state.ts';

/**
 * Merges what can be, but nothing where the written layer has at most `longest` below and beside it. Gives how many
 * layers are gone. Nothing happens while QEMU has the disk open. A disk that cannot be shortened now, for instance
 * because the host's is full, is as good as before, and the next step tries again.
 */
export async function mergeLayers(
  files: DiskFiles,
  { longest = 0 }: { longest?: number } = {},
): Promise<number> {
  const { directory } = files;
  if (!(await loadState(directory))) return 0;
  return locked(directory, async (lock) => {
    if (isOpen(directory)) return 0;
    let state = await settle(directory);
    for (let gone = 0; ; gone += 1) {
      const pair = chainOf(state, state.active).length > longest ? await cheapest(files, state) : undefined;
      if (!pair) return gone;
      try {
        await commit(files, chainOf(state, pair.upper), lock.fd);
      } catch (error) {
        if (!isCarrelError(error)) throw error;
        return gone;
      }
      state = merged(state, pair);
      await saveState(directory, state);
      await collectGarbage(directory, state);
    }
  });
}

/** The pair with the least to be written. */
async function cheapest(files: DiskFiles, state: DiskState): Promise<Mergeable | undefined> {
  let best: { pair: Mergeable; bytes: number } | undefined;
  for (const pair of mergeable(state)) {
    if (!(await isOurs(files, pair.lower))) continue;
    const bytes = await heldBytes(files.directory, [pair.upper]);
    if (!best || bytes < best.bytes) best = { pair, bytes };
  }
  return best?.pair;
}

/** A layer of a template, or one that is being copied, is somebody else's as well. */
async function isOurs({ directory, uid }: DiskFiles, layer: number): Promise<boolean> {
  const facts = await stat(layerPath(directory, layer));
  return facts.nlink === 1 && facts.uid === uid;
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
  });
  await using lower = await open(layerPath(directory, chain.at(-2) ?? 0), 'r');
  await lower.sync();
}
