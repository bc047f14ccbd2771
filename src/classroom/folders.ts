/**
 * Lab folders: kept as blobs under one manifest, laid out as directories where they are used.
 *
 * The manifest (a sorted list of paths, modes and hashes) is itself a blob; its hash names the version. The
 * directory DIR/labs/<hash> is a cache of it: it appears by one rename, is never changed, and can be thrown away.
 */
import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, copyFile, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { loadLab, type LabFolder } from '#grading/format/folder.ts';
import type { LabDefinition } from '#grading/format/lab.ts';
import { readArchive, type ArchiveFormat } from '#images/archive/read.ts';
import { uploadLimits } from '#images/archive/limits.ts';
import type { BlobStore } from '#images/blobs.ts';
import { walkTree } from '#images/tree.ts';

const manifest = z.array(
  z.strictObject({ path: z.string(), mode: z.int(), hash: z.string(), bytes: z.int().min(0) }),
);
type Manifest = z.infer<typeof manifest>;

/** A manifest of 5,000 entries (the limit of an upload) with long paths stays below this. */
const manifestBytes = 16 * 2 ** 20;
/** Parsed labs kept in memory. */
const remembered = 32;

export interface LabFolders {
  /** Reads an uploaded archive, checks the lab in it, and keeps it; an invalid one leaves nothing. */
  receive(
    source: AsyncIterable<Uint8Array>,
    format: ArchiveFormat,
  ): Promise<{ treeHash: string; folder: LabFolder }>;
  /** The folder of a version that was received before. */
  open(treeHash: string): Promise<LabFolder>;
}

/** Unpacks an archive into an empty directory of ours; every path has been made safe by the reader. */
async function unpack(
  source: AsyncIterable<Uint8Array>,
  format: ArchiveFormat,
  directory: string,
): Promise<void> {
  for await (const entry of readArchive(source, format, uploadLimits)) {
    const path = join(directory, entry.path);
    if (entry.kind === 'directory') {
      await mkdir(path, { recursive: true });
      continue;
    }
    await mkdir(dirname(path), { recursive: true });
    const file = await open(path, 'wx', (entry.mode & 0o111) === 0 ? 0o644 : 0o755);
    try {
      for await (const chunk of entry.data) await file.writeFile(chunk);
    } finally {
      await file.close();
    }
  }
}

/** An archive of a folder `reach-number/` is as good as one of its contents. */
async function rootOf(directory: string): Promise<string> {
  const names: string[] = [];
  for await (const { path } of walkTree(directory)) {
    if (path === 'lab.yaml') return directory;
    if (!path.includes('/')) names.push(path);
  }
  return names.length === 1 ? join(directory, names[0] ?? '') : directory;
}

async function manifestOf(directory: string, blobs: BlobStore): Promise<Manifest> {
  const files: Manifest = [];
  for await (const { path, stats } of walkTree(directory)) {
    if (!stats.isFile()) continue;
    const { hash, size } = await blobs.put(createReadStream(join(directory, path)), {
      limit: uploadLimits.fileBytes,
    });
    files.push({ path, mode: (stats.mode & 0o111) === 0 ? 0o644 : 0o755, hash, bytes: size });
  }
  return files;
}

/** Opens the lab folders below `directory` (DIR/labs). */
export async function openLabFolders({
  directory,
  blobs,
  accept,
}: {
  readonly directory: string;
  readonly blobs: BlobStore;
  /** Refuses what could not be graded here. */
  readonly accept: (lab: LabDefinition) => Promise<void>;
}): Promise<LabFolders> {
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const loaded = new Map<string, Promise<LabFolder>>();

  const temporary = async (): Promise<string> => {
    const path = join(directory, `.new-${randomBytes(9).toString('hex')}`);
    await mkdir(path, { mode: 0o700 });
    return path;
  };

  /** Someone else may have put the same folder there: then his is as good. */
  const settle = async (from: string, treeHash: string): Promise<string> => {
    const to = join(directory, treeHash);
    try {
      await rename(from, to);
    } catch (error) {
      if (!['ENOTEMPTY', 'EEXIST'].includes(errnoOf(error) ?? '')) throw error;
    }
    return to;
  };

  const layOut = async (treeHash: string): Promise<string> => {
    const to = join(directory, treeHash);
    if (
      await stat(to).then(
        () => true,
        () => false,
      )
    )
      return to;
    const text = await blobs.readWhole(treeHash, { limit: manifestBytes });
    const files = manifest.parse(JSON.parse(text.toString()));
    const from = await temporary();
    try {
      for (const file of files) {
        const path = join(from, file.path);
        await mkdir(dirname(path), { recursive: true });
        await copyFile(blobs.path(file.hash), path);
        await chmod(path, file.mode);
      }
      return await settle(from, treeHash);
    } finally {
      await rm(from, { recursive: true, force: true });
    }
  };

  const remember = (treeHash: string, folder: Promise<LabFolder>): void => {
    loaded.set(treeHash, folder);
    folder.catch(() => loaded.delete(treeHash));
    for (const oldest of loaded.keys()) {
      if (loaded.size <= remembered) break;
      loaded.delete(oldest);
    }
  };

  return {
    async receive(source, format) {
      const fresh = await temporary();
      try {
        await unpack(source, format, fresh);
        const root = await rootOf(fresh);
        await accept((await loadLab(root)).lab);
        const files = await manifestOf(root, blobs);
        const { hash: treeHash } = await blobs.put(Buffer.from(JSON.stringify(files)));
        const folder = loadLab(await settle(root, treeHash));
        remember(treeHash, folder);
        return { treeHash, folder: await folder };
      } finally {
        await rm(fresh, { recursive: true, force: true });
      }
    },

    async open(treeHash) {
      if (!/^[0-9a-f]{64}$/.test(treeHash))
        throw new CarrelError('internal', `${treeHash} names no lab folder`);
      const known = loaded.get(treeHash);
      if (known) return known;
      const folder = layOut(treeHash).then(loadLab);
      remember(treeHash, folder);
      return folder;
    },
  };
}
