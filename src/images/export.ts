/** An image as an archive that `importImage`, docker import or plain tar can read. */
import { createReadStream } from 'node:fs';
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { Chunks } from './archive/bytes.ts';
import { compress } from './archive/decompress.ts';
import { tarCompression } from './archive/read.ts';
import { type TarInput, writeTar } from './archive/tarwriter.ts';
import type { ImageFormat } from './import.ts';
import type { Image } from './layout.ts';
import { type Walked, walkTree } from './tree.ts';

/** Entries of a directory for `writeTar`. Files with several names become hard links to the first. */
export async function* tarInputs(root: string): AsyncGenerator<TarInput, void, undefined> {
  const linked = new Map<number, string>();
  for await (const walked of walkTree(root)) {
    const { path, stats } = walked;
    const first = stats.isFile() && stats.nlink > 1 ? linked.get(stats.ino) : undefined;
    if (first !== undefined) {
      yield { path, kind: 'hardlink', link: first, mode: stats.mode, uid: stats.uid, gid: stats.gid };
      continue;
    }
    if (stats.isFile() && stats.nlink > 1) linked.set(stats.ino, path);
    yield await inputOf(root, walked);
  }
}

async function inputOf(root: string, { path, stats }: Walked): Promise<TarInput> {
  const full = join(root, path);
  const common = { path, mode: stats.mode, uid: stats.uid, gid: stats.gid };
  if (stats.isDirectory()) return { ...common, kind: 'directory' };
  if (stats.isSymbolicLink()) return { ...common, kind: 'symlink', link: await readlink(full) };
  if (stats.isFile()) return { ...common, kind: 'file', size: stats.size, data: fileData(full) };
  throw new CarrelError('validation_failed', `${path} is neither file, directory nor link`);
}

/** Opened when it is read, so that the thousands of files of an image are not open all at once. */
async function* fileData(path: string): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 18 }))
    if (Buffer.isBuffer(chunk)) yield chunk;
}

/** The image's files as an archive; equal images give equal bytes (uncompressed). */
export function exportImage(image: Image, format: ImageFormat): Chunks {
  if (image.kind !== 'rootfs')
    throw new CarrelError(
      'driver_unsupported',
      `image ${image.name} is a ${image.kind}, not a root file system`,
    );
  return compress(writeTar(tarInputs(image.path)), tarCompression[format]);
}
