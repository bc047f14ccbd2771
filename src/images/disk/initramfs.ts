/** The RAM disk of our disks: one program (src/native/early), and the few modules that reach the root. */
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { type CpioEntry, cpioArchive } from './cpio.ts';
import { readNative } from '../natives.ts';
import type { Kernel } from './kernel.ts';

/** What every machine of ours has, and a PC's disk controller for `qemu -hda`. */
const groups = {
  virtio: ['virtio_pci', 'virtio_blk', 'virtio_console', 'virtio_net', 'virtio_rng'],
  ide: ['ata_piix', 'ahci', 'sd_mod', 'e1000'],
} as const;
/** Debian's cloud kernel lacks these; a machine that has virtio does not miss them. */
const optional: ReadonlySet<string> = new Set(['ahci', 'e1000']);

/** Builds the archive, not packed: unpacking would cost more at every boot than it saves. */
export async function buildInitramfs({ modules }: Kernel): Promise<Buffer> {
  const entries: CpioEntry[] = [
    { path: 'init', kind: 'file', mode: 0o755, data: await readNative('early') },
    ...['dev', 'proc', 'sys', 'root'].map((path) => ({ path, kind: 'directory' as const })),
  ];
  const packed = new Map<string, string>();
  for (const [group, names] of Object.entries(groups)) {
    const list: string[] = [];
    for (const name of names) {
      const files = modules.closure(name);
      if (files === undefined && !optional.has(name))
        throw new CarrelError('helper_failed', `the kernel package has no module ${name}`);
      for (const file of files ?? []) {
        const place = `modules/${basename(file)}`;
        if (packed.has(place)) continue;
        packed.set(place, file);
        list.push(`/${place}`);
      }
    }
    entries.push({ path: `modules/${group}`, kind: 'file', data: list.map((path) => `${path}\n`).join('') });
  }
  for (const [path, file] of packed)
    entries.push({ path, kind: 'file', data: await readFile(join(modules.directory, file)) });
  return cpioArchive(entries);
}
