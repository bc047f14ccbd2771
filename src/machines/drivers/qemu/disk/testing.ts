/** What tests of disks share: a disk whose guest is qemu-io, and which is looked at with qemu-img. */
import { execFileSync } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeDisk, openDisk } from './disk.ts';
import { type DiskFiles, layerPath, requireState } from './files.ts';
import { chainOf, snapshotLayer } from './state.ts';

export const MiB = 2 ** 20;
const cluster = 65_536;
export const skip =
  existsSync('/usr/bin/qemu-img') && existsSync('/usr/bin/qemu-io') ? false : 'qemu-utils is not installed';

/** A new disk of `bytes` over an image of 4 MiB. `within`: where it lies; its directory is a new one there. */
export async function withDisk(
  work: (files: DiskFiles) => Promise<void>,
  { bytes = 8 * MiB, within = tmpdir() }: { readonly bytes?: number; readonly within?: string } = {},
): Promise<void> {
  const above = mkdtempSync(join(within, 'carrel-merge-'));
  try {
    const asRoot = process.getuid?.() === 0;
    const uid = asRoot ? 1_234_567 : (process.getuid?.() ?? 0);
    const image = join(above, 'image.qcow2');
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', image, String(4 * MiB)]);
    execFileSync('qemu-io', ['-f', 'qcow2', '-c', `write -q -P 7 0 ${4 * MiB}`, image]);
    chmodSync(image, 0o444);
    const directory = mkdtempSync(join(above, 'm-'));
    if (asRoot) chmodSync(above, 0o711);
    const files = { directory, uid, bytes, image };
    await makeDisk(files, 'a'.repeat(64));
    await work(files);
  } finally {
    rmSync(above, { recursive: true, force: true });
  }
}

/** The disk, or a snapshot of it, as qemu-img and qemu-io take it. */
export async function chainText({ directory, image }: DiskFiles, snapshot?: string): Promise<string> {
  const state = await requireState(directory);
  const layer = snapshot === undefined ? state.active : snapshotLayer(state, snapshot);
  const paths = [image, ...chainOf(state, layer).map((each) => layerPath(directory, each))];
  const source = paths.reduce<object | null>(
    (backing, filename) => ({ driver: 'qcow2', file: { driver: 'file', filename }, backing }),
    null,
  );
  return `json:${JSON.stringify(source)}`;
}

/** All that it shows. */
export async function shown(files: DiskFiles, snapshot?: string): Promise<Buffer> {
  const raw = join(files.directory, 'raw');
  execFileSync('qemu-img', ['convert', '-O', 'raw', await chainText(files, snapshot), raw]);
  const bytes = readFileSync(raw);
  rmSync(raw);
  return bytes;
}

/** As a guest would: data, zeros that are data, and what it gives back. */
export async function scribble(files: DiskFiles, seed: number): Promise<void> {
  const at = (n: number): number => ((seed * 7 + n * 13) % 100) * cluster;
  const commands = [
    `write -q -P ${1 + (seed % 250)} ${at(0)} ${3 * cluster}`,
    `write -q -z -u ${at(1)} ${2 * cluster}`,
    `discard -q ${at(2)} ${cluster}`,
    `write -q -P ${2 + (seed % 250)} ${at(3) + 512} 1024`,
  ];
  execFileSync('qemu-io', [
    ...commands.flatMap((each) => ['-c', each]),
    '-d',
    'unmap',
    await chainText(files),
  ]);
  for (const layer of await openDisk(files.directory))
    chownSync(layerPath(files.directory, layer), files.uid, files.uid);
}

/** Writes `bytes` of one value from `at` on. */
export async function fill(files: DiskFiles, byte: number, at: number, bytes: number): Promise<void> {
  execFileSync('qemu-io', ['-c', `write -q -P ${byte} ${at} ${bytes}`, await chainText(files)]);
}
