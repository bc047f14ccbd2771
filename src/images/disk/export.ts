/** A disk as one file that stands alone: as it is in the cache, or without any format. */
import { join } from 'node:path';
import { runCommand } from '../command.ts';
import type { Image, Layout } from '../layout.ts';
import { fileData } from '../files.ts';
import { openWorkspace } from '../workspace.ts';
import type { DiskFormat } from './convert.ts';
import { readQcow2 } from './head.ts';

/** Some seconds per GiB, and more where the disk is slow. */
const convertMs = 30 * 60_000;

/** The bytes of an image's disk. An image never lies on another one, so its qcow2 file stands alone already. */
export async function* exportDisk(
  layout: Layout,
  { path, disk }: Image,
  format: DiskFormat,
): AsyncGenerator<Uint8Array, void, undefined> {
  if (format === 'qcow2') {
    yield* fileData(path);
    return;
  }
  await using workspace = await openWorkspace(layout.tmp, 'export');
  const raw = join(workspace.directory, 'disk.raw');
  // Written by ourselves, or anew at its import; but steps of its recipe may have run in a machine that wrote it since.
  await readQcow2(path, { virtualBytes: disk?.virtualBytes ?? 0 });
  const argv = ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', path, raw];
  await runCommand(argv, { ms: convertMs, lockFd: workspace.lockFd });
  yield* fileData(raw);
}
