/**
 * The files of a micro-machine: one directory of the host, which its user reaches in every state and its guest through
 * hypercalls. The machine's disk limit is what is in it. Whoever runs in the machine's jail owns the directory, so what
 * is found in it is a stranger's.
 */
import { constants, fstatSync, lstatSync, mkdirSync, opendirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { chown } from 'node:fs/promises';
import { CarrelError, errnoOf, isCarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { openFileInRoot, readFileInRoot, writeFileInRoot } from '#host/inroot.ts';
import { isLocked } from '#host/flock.ts';
import { keptPaths } from '#isolate/kept.ts';
import type { FileRead, MachineSpec } from '../../driver.ts';
import { jailUid, microPaths, runBytes, shareFiles } from './spec.ts';

/** Of st_blocks in stat(2). */
const blockBytes = 512;
/** Written at once, by the daemon's only thread. */
const mostFileBytes = 16 * 2 ** 20;

interface Usage {
  readonly bytes: number;
  readonly files: number;
}

/** What the directory holds. Beyond `shareFiles` it is not counted to the end: it is full. */
export function usageOf({ directory }: Pick<MachineSpec, 'directory'>): Usage {
  let [bytes, files] = [0, 0];
  const below = [microPaths(directory).share];
  for (let place = below.pop(); place !== undefined && files <= shareFiles; place = below.pop()) {
    const entries = openIfThere(place);
    if (!entries) continue;
    try {
      for (let entry = entries.readSync(); entry && files <= shareFiles; entry = entries.readSync()) {
        const path = join(place, entry.name);
        const stat = lstatSync(path, { throwIfNoEntry: false });
        files += 1;
        bytes += (stat?.blocks ?? 0) * blockBytes;
        if (stat?.isDirectory()) below.push(path);
      }
    } finally {
      entries.closeSync();
    }
  }
  return { bytes, files };
}

function openIfThere(path: string): ReturnType<typeof opendirSync> | undefined {
  try {
    return opendirSync(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** What a run that begins now may add. */
export function roomOf(spec: Pick<MachineSpec, 'directory' | 'limits'>): {
  readonly files: number;
  readonly bytes: number;
} {
  const { bytes, files } = usageOf(spec);
  return {
    files: Math.max(0, shareFiles - files),
    bytes: Math.max(0, Math.min(runBytes, spec.limits.diskBytes - bytes)),
  };
}

/** Makes the directory; nothing happens if it is there. */
export async function prepareShare(spec: Pick<MachineSpec, 'directory' | 'uidSlot'>): Promise<string> {
  const { share } = microPaths(spec.directory);
  mkdirSync(share, { recursive: true, mode: 0o755 });
  await chown(share, jailUid(spec), jailUid(spec));
  return share;
}

export async function readShared(
  spec: Pick<MachineSpec, 'directory' | 'uidSlot'>,
  path: string,
  { maxBytes }: { maxBytes: number },
): Promise<FileRead> {
  const share = await prepareShare(spec);
  using file = openFileInRoot(share, path);
  const { mode } = fstatSync(file.fd);
  return { bytes: await readFileInRoot(share, path, { maxBytes }), mode: mode & 0o777 };
}

/** What the file of this name takes now; undefined: there is none. */
function presentBytes(share: string, path: string): number | undefined {
  try {
    using file = openFileInRoot(share, path, { flags: constants.O_RDONLY });
    return fstatSync(file.fd).blocks * blockBytes;
  } catch (error) {
    if (isCarrelError(error, 'not_found')) return undefined;
    throw error;
  }
}

/** Writes a file whole. Without a pause between looking and writing: two at once cannot both have the last of the room. */
export async function writeShared(
  spec: Pick<MachineSpec, 'name' | 'directory' | 'limits' | 'uidSlot'>,
  path: string,
  bytes: Uint8Array,
  { mode }: { mode: number },
): Promise<void> {
  if (bytes.length > mostFileBytes)
    throw new CarrelError(
      'too_large',
      `a file of a machine for guests may have ${formatSize(mostFileBytes)}`,
      {
        details: { maxBytes: mostFileBytes },
      },
    );
  const share = await prepareShare(spec);
  const before = presentBytes(share, path);
  const used = usageOf(spec);
  if (before === undefined && used.files >= shareFiles)
    throw new CarrelError('disk_full', `machine ${spec.name} has ${shareFiles} files, and may have no more`, {
      hint: 'write over one of them',
    });
  // a guest that runs may write as much as it was promised
  const promised = isLocked(keptPaths(spec.directory).lock) ? runBytes : 0;
  const free = spec.limits.diskBytes - used.bytes - promised + (before ?? 0);
  if (bytes.length > Math.max(free, before ?? 0))
    throw new CarrelError('disk_full', `machine ${spec.name} has no room for ${basename(path)}`, {
      hint:
        promised > 0
          ? 'wait until its guest has ended'
          : 'write shorter files over those that are there, or make a machine with a larger disk',
    });
  const owner = jailUid(spec);
  writeFileInRoot(share, path, bytes, { mode: mode & 0o777, uid: owner, gid: owner });
}
