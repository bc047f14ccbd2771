/** GRUB for a disk that is booted by hand or by a BIOS: made with grub-mkimage, no device and no loop mount needed. */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { exitStatusOf, runCommand } from '../command.ts';
import { bootArea } from './mbr.ts';

/** Of the package grub-pc-bin. */
const platform = '/usr/lib/grub/i386-pc';

/** Reads a partition with ext4, talks to the serial port, starts Linux; `normal` brings the menu and its editor. */
const modules = [
  'biosdisk',
  'part_msdos',
  'ext2',
  'linux',
  'serial',
  'terminal',
  'normal',
  'test',
  'ls',
  'cat',
];
const more = ['echo', 'halt', 'reboot', 'minicmd', 'configfile'];

/** In core.img: everything else is in grub.cfg on the disk, where its owner may change it. */
const embedded = `serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set root=hd0,msdos1
set prefix=(hd0,msdos1)/boot/grub
`;

/** /boot/grub/grub.cfg. */
export function grubConfig(append: string): string {
  return `# Written when the image was made. "e" in the menu changes a line for one boot.
set timeout=1
set default=0
menuentry "Linux" {
  linux /boot/vmlinuz ${append}
  initrd /boot/initrd.img
}
`;
}

/** The first megabyte of the disk. `directory` is for files in between. */
export async function buildBootArea(
  directory: string,
  { diskBytes, signature, signal }: { diskBytes: number; signature: number; signal: AbortSignal | undefined },
): Promise<Buffer> {
  const config = join(directory, 'grub-embedded.cfg');
  const core = join(directory, 'core.img');
  await writeFile(config, embedded);
  const argv = ['grub-mkimage', '--format=i386-pc', `--directory=${platform}`, '--compression=auto'];
  argv.push(`--output=${core}`, `--config=${config}`, '--prefix=(hd0,msdos1)/boot/grub', ...modules, ...more);
  try {
    await runCommand(argv, { ms: 60_000, signal });
    return bootArea({
      boot: await readFile(join(platform, 'boot.img')),
      core: await readFile(core),
      diskBytes,
      signature,
    });
  } catch (error) {
    if (exitStatusOf(error) !== 127) throw error;
    throw new CarrelError('host_unsupported', 'grub-mkimage is not installed on this host', {
      hint: 'apt-get install grub-pc-bin grub-common',
      cause: error,
    });
  }
}
