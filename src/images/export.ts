/** An image as a file for elsewhere: an archive that docker import or plain tar can read, or a disk. */
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { Chunks } from './archive/bytes.ts';
import { compress } from './archive/decompress.ts';
import { tarCompression } from './archive/read.ts';
import { type TarInput, writeTar } from './archive/tarwriter.ts';
import { exportDisk } from './disk/export.ts';
import { fileData } from './files.ts';
import { isGuestFormat, modeOfFormat } from './guest.ts';
import { type ImageFormat, imageFormats, kindOfFormat } from './import.ts';
import type { Image, Layout } from './layout.ts';
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

/** The image in a format of its kind; equal root file systems give equal bytes (uncompressed). */
export function exportImage(layout: Layout, image: Image, format: ImageFormat): Chunks {
  const kind = kindOfFormat(format);
  if (image.kind !== kind)
    throw new CarrelError(
      'invalid_request',
      `image ${image.name} is a ${image.kind}; ${format} is a format of a ${kind}`,
      {
        hint: `choose one of: ${imageFormats.filter((each) => kindOfFormat(each) === image.kind).join(', ')}`,
      },
    );
  if (format === 'qcow2' || format === 'raw') return exportDisk(layout, image, format);
  if (isGuestFormat(format)) {
    if (image.guest?.mode !== modeOfFormat(format))
      throw new CarrelError(
        'invalid_request',
        `guest ${image.name} was compiled for ${image.guest?.mode} mode`,
        { hint: `choose the format guest-${image.guest?.mode}` },
      );
    return fileData(image.path);
  }
  return compress(writeTar(tarInputs(image.path)), tarCompression[format]);
}
