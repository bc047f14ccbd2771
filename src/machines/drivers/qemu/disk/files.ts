/** The layers of a disk as files, and the state that says which of them count (state.ts). */
import {
  chmod,
  chown,
  copyFile,
  constants,
  mkdir,
  open,
  readdir,
  readFile,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { join, relative } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { writeFileAtomic } from '#host/files.ts';
import { copySparse } from '#host/sparse.ts';
import { writeOverlay } from '#images/disk/overlay.ts';
import { vmPaths } from '../spec.ts';
import { chainOf, type DiskState, diskStateSchema } from './state.ts';

/** The files of one machine. */
export interface DiskFiles {
  /** The machine's. */
  readonly directory: string;
  /** Whose the layers are: QEMU's. */
  readonly uid: number;
  /** Length as the machine sees it. */
  readonly bytes: number;
  /** The image below: images/<hash>/disk.qcow2. */
  readonly image: string;
}

export function layerPath(directory: string, layer: number): string {
  return join(vmPaths(directory).disk, `${layer}.qcow2`);
}

/** The state; undefined when there is no disk yet. */
export async function loadState(directory: string): Promise<DiskState | undefined> {
  const path = vmPaths(directory).diskState;
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const state = diskStateSchema.parse(JSON.parse(text));
    chainOf(state, state.active);
    return state;
  } catch (error) {
    throw new CarrelError('internal', `${path} is damaged`, {
      hint: 'make a new machine; the layers of the old disk are in the directory beside it',
      cause: error,
    });
  }
}

/** Like `loadState`; `not_found` when there is no disk. */
export async function requireState(directory: string): Promise<DiskState> {
  const state = await loadState(directory);
  if (state) return state;
  throw new CarrelError('not_found', `there is no disk in ${directory}`);
}

/** From here on the disk is what the state says, also after a power cut. */
export async function saveState(directory: string, state: DiskState): Promise<void> {
  await writeFileAtomic(vmPaths(directory).diskState, stateText(state));
}

/** Of a disk that is nobody's before `syncNewDisk`: a power cut may leave half of it. */
export async function saveNewState(directory: string, state: DiskState): Promise<void> {
  await writeFile(vmPaths(directory).diskState, stateText(state), { mode: 0o600 });
}

/** Makes a disk last whose files were written without. */
export async function syncNewDisk(directory: string, layer: number): Promise<void> {
  const { disk, diskState } = vmPaths(directory);
  for (const path of [layerPath(directory, layer), disk, diskState, directory]) await syncPath(path);
}

const stateText = (state: DiskState): string => `${JSON.stringify(diskStateSchema.parse(state))}\n`;

/** Makes the (root's own) directory of the layers. */
export async function makeDiskDirectory(directory: string): Promise<void> {
  // QEMU may walk through, to files that it is told of
  await mkdir(vmPaths(directory).disk, { recursive: true, mode: 0o711 });
}

/**
 * Makes the file of an empty layer over `below` (null: the image); what an earlier try left there goes. `lasting`: it is
 * there after a power cut, too.
 */
export async function makeLayer(
  { directory, uid, bytes, image }: DiskFiles,
  layer: number,
  below: number | null,
  { lasting = true }: { lasting?: boolean } = {},
): Promise<void> {
  const path = layerPath(directory, layer);
  const backing = below === null ? image : relative(vmPaths(directory).disk, layerPath(directory, below));
  await rm(path, { force: true });
  await writeOverlay(path, { backing, bytes });
  await give(path, uid);
  if (lasting) await syncPath(path);
}

/** Takes a layer of another disk over: sharing its blocks where the file system can, else as a copy with its holes. */
export async function copyLayer(from: string, { directory, uid }: DiskFiles, layer: number): Promise<void> {
  const path = layerPath(directory, layer);
  await rm(path, { force: true });
  try {
    await copyFile(from, path, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') throw error;
    await rm(path, { force: true });
    await copyWithHoles(from, path);
  }
  await give(path, uid);
  await syncPath(path);
}

async function copyWithHoles(from: string, to: string): Promise<void> {
  await using source = await open(from, 'r');
  await using target = await open(to, 'wx', 0o600);
  const { size } = await source.stat();
  await target.truncate(size);
  await copySparse(source.fd, target.fd, size);
}

async function give(path: string, uid: number): Promise<void> {
  await chmod(path, 0o600);
  await chown(path, uid, uid);
}

async function syncPath(path: string): Promise<void> {
  await using file = await open(path, 'r');
  await file.sync();
}

/** Removes files that the state does not know. Not while QEMU may be about to be told of a new one. */
export async function collectGarbage(directory: string, state: DiskState): Promise<void> {
  for (const name of await readdir(vmPaths(directory).disk)) {
    const layer = /^([1-9]\d*)\.qcow2$/.exec(name)?.[1];
    if (layer !== undefined && layer in state.layers) continue;
    await rm(join(vmPaths(directory).disk, name), { force: true });
  }
}

/** What the given layers hold of the host's disk. */
export async function heldBytes(directory: string, layers: Iterable<number>): Promise<number> {
  let bytes = 0;
  for (const layer of layers)
    try {
      bytes += (await stat(layerPath(directory, layer))).blocks * 512;
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error; // dropped a moment ago
    }
  return bytes;
}
