/**
 * struct boot_params, the "zero page": what a kernel is told at its first instruction. Source:
 * arch/x86/include/uapi/asm/bootparam.h and Documentation/arch/x86/zero-page.rst.
 */
import { CarrelError } from '#base/errors.ts';
import type { E820Entry } from './e820.ts';
import { header, headerLimit, LOADED_HIGH } from './header.ts';
import type { Stretch } from './ram.ts';

const pageBytes = 4096;
const e820EntriesAt = 0x1e8;
const e820TableAt = 0x2d0;
const e820EntryBytes = 20;
/** E820_MAX_ENTRIES_ZEROPAGE */
const mostE820 = 128;
/** type_of_loader for those without a number of their own. */
const anyLoader = 0xff;

export interface BootParams {
  /** The kernel's own header, as it is in its file. */
  readonly header: Uint8Array;
  readonly commandLineAt: number;
  readonly initrd: Stretch | undefined;
  readonly e820: readonly E820Entry[];
  /** Where its protected-mode part lies. */
  readonly loadAddress: number;
}

/** The page itself. */
export function bootParams({
  header: own,
  commandLineAt,
  initrd,
  e820,
  loadAddress,
}: BootParams): Uint8Array {
  if (header.begin + own.length > headerLimit || e820.length > mostE820)
    throw new CarrelError('internal', 'header or memory map do not fit into boot_params');
  const page = new Uint8Array(pageBytes);
  const view = new DataView(page.buffer);
  page.set(own, header.begin);
  view.setUint8(header.type_of_loader, anyLoader);
  // KEEP_SEGMENTS, CAN_USE_HEAP and the like speak to the 16-bit code, which does not run
  view.setUint8(header.loadflags, view.getUint8(header.loadflags) | LOADED_HIGH);
  view.setUint32(header.code32_start, loadAddress, true);
  view.setUint32(header.cmd_line_ptr, commandLineAt, true);
  view.setUint32(header.ramdisk_image, initrd?.at ?? 0, true);
  view.setUint32(header.ramdisk_size, initrd?.length ?? 0, true);
  view.setUint8(e820EntriesAt, e820.length);
  for (const [index, { at, length, type }] of e820.entries()) {
    const entry = e820TableAt + index * e820EntryBytes;
    view.setBigUint64(entry, BigInt(at), true);
    view.setBigUint64(entry + 8, BigInt(length), true);
    view.setUint32(entry + 16, type, true);
  }
  return page;
}
