/** Kernels for tests, made byte by byte: right unless told otherwise. */
import { header } from './header.ts';

export interface BzImageChanges {
  readonly version?: number;
  readonly xloadflags?: number;
  readonly loadflags?: number;
  readonly bootFlag?: number;
  readonly syssize?: number;
  readonly setupSectors?: number;
  readonly jump?: number;
  readonly alignment?: number;
  readonly preferred?: bigint;
  readonly relocatable?: number;
  readonly initSize?: number;
  readonly initrdMax?: number;
  readonly commandLineMax?: number;
}

/** Four sectors of set-up, and 4 KiB of "kernel" whose 64-bit entry is `nop; nop; hlt; hlt`. */
export function makeBzImage({
  version = 0x20f,
  xloadflags = 1,
  loadflags = 1,
  bootFlag = 0xaa55,
  syssize = 4096 / 16,
  setupSectors = 3,
  jump = 0x66,
  alignment = 0x20_0000,
  preferred = 0x100_0000n,
  relocatable = 1,
  initSize = 0x40_0000,
  initrdMax = 0x7fff_ffff,
  commandLineMax = 2047,
}: BzImageChanges = {}): Uint8Array {
  const setupBytes = 4 * 512;
  const bytes = new Uint8Array(setupBytes + 4096);
  const view = new DataView(bytes.buffer);
  view.setUint8(header.setup_sects, setupSectors);
  view.setUint32(header.syssize, syssize, true);
  view.setUint16(header.boot_flag, bootFlag, true);
  view.setUint8(header.jump, 0xeb);
  view.setUint8(header.jump + 1, jump);
  bytes.set(Buffer.from('HdrS'), header.magic);
  view.setUint16(header.version, version, true);
  view.setUint16(header.kernel_version, 0x400 - 0x200, true);
  bytes.set(Buffer.from('6.1.0-carrel (test)\0'), 0x400);
  view.setUint8(header.loadflags, loadflags);
  view.setUint32(header.initrd_addr_max, initrdMax, true);
  view.setUint32(header.kernel_alignment, alignment, true);
  view.setUint8(header.relocatable_kernel, relocatable);
  view.setUint16(header.xloadflags, xloadflags, true);
  view.setUint32(header.cmdline_size, commandLineMax, true);
  view.setBigUint64(header.pref_address, preferred, true);
  view.setUint32(header.init_size, initSize, true);
  bytes.set([0x90, 0x90, 0xf4, 0xf4], setupBytes + 0x200);
  return bytes;
}

/** An ELF kernel with code at 16 MiB and data behind it. */
export function makeVmlinux({ entry = 0x100_0010n }: { entry?: bigint } = {}): Uint8Array {
  const bytes = new Uint8Array(8192);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setBigUint64(24, entry, true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 3, true);
  const segments = [
    { type: 1, offset: 4096n, physical: 0x100_0000n, fileBytes: 4096n, memoryBytes: 4096n },
    { type: 1, offset: 4096n, physical: 0x120_0000n, fileBytes: 64n, memoryBytes: 0x10_0000n },
    { type: 4, offset: 0n, physical: 0n, fileBytes: 0n, memoryBytes: 0n }, // a note
  ] as const;
  for (const [index, { type, offset, physical, fileBytes, memoryBytes }] of segments.entries()) {
    const at = 64 + index * 56;
    view.setUint32(at, type, true);
    view.setBigUint64(at + 8, offset, true);
    view.setBigUint64(at + 16, 0xffff_ffff_8000_0000n + physical, true);
    view.setBigUint64(at + 24, physical, true);
    view.setBigUint64(at + 32, fileBytes, true);
    view.setBigUint64(at + 40, memoryBytes, true);
  }
  bytes.fill(0x90, 4096);
  return bytes;
}
