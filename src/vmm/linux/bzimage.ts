/**
 * bzImage: a boot sector, a set-up for real mode, and the kernel proper, packed, behind a program that unpacks it.
 * We enter that program in 64-bit mode (boot.rst, "64-bit Boot Protocol"), so that nothing of real mode runs.
 * The file may say anything: each number is checked before it is used.
 */
import { hex } from '#base/units.ts';
import { hole, place } from './layout.ts';
import { type LinuxKernel, notAKernel } from './kernel.ts';
import {
  BOOT_FLAG,
  header,
  HEADER_MAGIC,
  headerLimit,
  LOADED_HIGH,
  version64,
  XLF_KERNEL_64,
} from './header.ts';
import type { Stretch } from './ram.ts';

const sectorBytes = 512;
/** The header up to init_size; version 2.12 has all of it. */
const leastBytes = 0x264;
/** From the first byte of the loaded part to its 64-bit entry point. */
const entry64 = 0x200;
const mostVersionBytes = 256;

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Whether it looks like one at all. */
export function isBzImage(bytes: Uint8Array): boolean {
  return bytes.length >= leastBytes && viewOf(bytes).getUint32(header.magic, true) === HEADER_MAGIC;
}

/** The text that kernel_version points to, if it points into the set-up. */
function versionOf(setup: Uint8Array): string | undefined {
  const offset = viewOf(setup).getUint16(header.kernel_version, true);
  const at = offset + sectorBytes;
  if (offset === 0 || at >= setup.length) return undefined;
  const text = setup.subarray(at, at + mostVersionBytes);
  const end = text.indexOf(0);
  return end <= 0
    ? undefined
    : Buffer.from(text.subarray(0, end))
        .toString('latin1')
        .replaceAll(/[^ -~]/g, '?');
}

/**
 * Where the unpacked kernel will lie, and all the memory that unpacking takes: init_size bytes from there. A
 * relocatable kernel stays at or above where it was put (arch/x86/boot/compressed/head_64.S).
 */
function unpackedAt(view: DataView, loadAddress: number): Stretch {
  const preferred = view.getBigUint64(header.pref_address, true);
  const length = view.getUint32(header.init_size, true);
  const alignment = view.getUint32(header.kernel_alignment, true);
  if (preferred < BigInt(place.high) || preferred > BigInt(hole.from))
    throw notAKernel(`wants to be unpacked at ${hex(preferred)}, which is no place for it`);
  if (alignment === 0 || (alignment & (alignment - 1)) !== 0)
    throw notAKernel(`asks for an alignment of ${hex(alignment)}, which is no power of two`);
  const relocatable = view.getUint8(header.relocatable_kernel) !== 0;
  const aligned = Math.ceil(loadAddress / alignment) * alignment;
  return { at: relocatable ? Math.max(aligned, Number(preferred)) : Number(preferred), length };
}

/** `loadAddress`: where its protected-mode part goes, 1 MiB unless somebody knows better. */
export function readBzImage(bytes: Uint8Array, loadAddress: number = place.high): LinuxKernel {
  if (!isBzImage(bytes)) throw notAKernel('has no setup header');
  const view = viewOf(bytes);
  if (view.getUint16(header.boot_flag, true) !== BOOT_FLAG) throw notAKernel('has no boot flag');
  const version = view.getUint16(header.version, true);
  if (version < version64)
    throw notAKernel(
      `speaks version ${version >> 8}.${String(version & 0xff).padStart(2, '0')} of the boot protocol`,
      'a 64-bit entry point came with version 2.12 (Linux 3.8)',
    );
  if ((view.getUint16(header.xloadflags, true) & XLF_KERNEL_64) === 0)
    throw notAKernel('has no 64-bit entry point', 'take a kernel for x86-64');
  if ((view.getUint8(header.loadflags) & LOADED_HIGH) === 0)
    throw notAKernel('wants to be loaded below 1 MiB (a zImage)', 'take a bzImage');

  const sectors = view.getUint8(header.setup_sects);
  // 0 means 4, for ancient reasons; the boot sector itself is not counted
  const from = ((sectors === 0 ? 4 : sectors) + 1) * sectorBytes;
  const body = bytes.subarray(from);
  const declared = view.getUint32(header.syssize, true) * 16;
  // syssize is rounded up to 16 bytes, the file is not always
  if (body.length <= entry64 || body.length + 15 < declared)
    throw notAKernel(`is cut off: ${bytes.length} bytes of ${from + declared}`);
  const headerEnd = header.magic + view.getUint8(header.jump + 1);
  if (headerEnd < leastBytes || headerEnd > Math.min(headerLimit, from))
    throw notAKernel(`has a setup header that ends at ${hex(headerEnd)}`);
  if (!Number.isSafeInteger(loadAddress) || loadAddress < place.high || loadAddress % 16 !== 0)
    throw notAKernel(
      `cannot lie at ${hex(loadAddress)}`,
      `a load address is a multiple of 16, from ${hex(place.high)} on`,
    );
  const relocatable = view.getUint8(header.relocatable_kernel) !== 0;
  if (!relocatable && loadAddress !== place.high)
    throw notAKernel(`is not relocatable: it goes to ${hex(place.high)} and nowhere else`);
  return {
    kind: 'bzImage',
    version: versionOf(bytes.subarray(0, from)),
    parts: [{ at: loadAddress, bytes: body }],
    entry: loadAddress + entry64,
    needs: [{ at: loadAddress, length: body.length }, unpackedAt(view, loadAddress)],
    header: bytes.slice(header.begin, headerEnd),
    initrdMax: view.getUint32(header.initrd_addr_max, true),
    commandLineMax: view.getUint32(header.cmdline_size, true),
  };
}
