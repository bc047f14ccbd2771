/** A kernel from its file, whichever of the two kinds it is. */
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { isElf } from '../image/elf.ts';
import { isBzImage, readBzImage } from './bzimage.ts';
import { type LinuxKernel, mostKernelBytes, notAKernel } from './kernel.ts';
import { readVmlinux } from './vmlinux.ts';

/** `validation_failed` says what is wrong with the file. `loadAddress` is for bzImages: ELF files name theirs. */
export function readKernel(bytes: Uint8Array, loadAddress?: number): LinuxKernel {
  if (bytes.length > mostKernelBytes)
    throw new CarrelError('too_large', `the kernel has ${formatSize(bytes.length)}`, {
      hint: `a kernel has at most ${formatSize(mostKernelBytes)}`,
    });
  if (isElf(bytes)) {
    if (loadAddress !== undefined)
      throw new CarrelError('invalid_request', 'an ELF kernel says itself where it goes', {
        hint: 'leave the load address out, or take the bzImage',
      });
    return readVmlinux(bytes);
  }
  if (isBzImage(bytes)) return readBzImage(bytes, loadAddress);
  throw notAKernel('is neither a bzImage nor an ELF file', 'Debian has bzImages in /boot/vmlinuz-*');
}
