/**
 * The processor at the kernel's first instruction, as the 64-bit boot protocol wants it (boot.rst): long mode,
 * the first 4 GiB mapped to themselves, flat segments out of a real descriptor table, interrupts off, and RSI
 * pointing to boot_params.
 */
import { zeroRegisters, type Registers, type Segment, type SpecialRegisters } from '#kvm/registers.ts';
import { CR4, EFER, entryBit, pagedCr0 } from '../modes/bits.ts';
import { place } from './layout.ts';

const entries = 512;
const tableBytes = 4096;
const largePage = 2 ** 21;
const gibibytes = 4;

/** __BOOT_CS and __BOOT_DS of the protocol. */
const selector = { code: 0x10, data: 0x18, task: 0x20 } as const;
/** Descriptors (Intel SDM volume 3A, 3.4.5): none, none, 64-bit code, data, and a task state that is never used. */
const descriptors = [0n, 0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn, 0x008f_8b00_0000_ffffn] as const;

/** The descriptor table, for `place.gdt`. */
export function bootGdt(): Uint8Array {
  const bytes = new Uint8Array(descriptors.length * 8);
  const view = new DataView(bytes.buffer);
  for (const [index, descriptor] of descriptors.entries()) view.setBigUint64(index * 8, descriptor, true);
  return bytes;
}

/** PML4, PDPT, and four page directories with pages of 2 MiB, for `place.pageTables`. */
export function bootPageTables(): Uint8Array {
  const bytes = new Uint8Array((2 + gibibytes) * tableBytes);
  const view = new DataView(bytes.buffer);
  const table = (index: number): bigint => BigInt(place.pageTables + index * tableBytes);
  const open = entryBit.present | entryBit.writable;
  view.setBigUint64(0, table(1) | open, true);
  for (let gib = 0; gib < gibibytes; gib += 1)
    view.setBigUint64(tableBytes + gib * 8, table(2 + gib) | open, true);
  for (let page = 0; page < gibibytes * entries; page += 1)
    view.setBigUint64(2 * tableBytes + page * 8, BigInt(page * largePage) | open | entryBit.large, true);
  return bytes;
}

const flat = { base: 0n, limit: 0xffff_ffff, dpl: 0, g: true } as const;
const data: Segment = { ...flat, selector: selector.data, type: 3, db: true, l: false };

/** Segments, tables and control registers. */
export function setEntrySpecial(special: SpecialRegisters): void {
  special.setSegment('cs', { ...flat, selector: selector.code, type: 11, db: false, l: true });
  for (const name of ['ds', 'es', 'fs', 'gs', 'ss'] as const) special.setSegment(name, data);
  special.setGdt(BigInt(place.gdt), descriptors.length * 8 - 1);
  special.set('cr3', BigInt(place.pageTables));
  special.set('cr4', CR4.PAE);
  special.set('cr0', pagedCr0);
  special.set('efer', EFER.LME | EFER.LMA);
}

export function entryRegisters(entry: number): Registers {
  return {
    ...zeroRegisters,
    rip: BigInt(entry),
    rsi: BigInt(place.bootParams),
    rsp: BigInt(place.stack),
    rflags: 2n, // bit 1 is always set
  };
}
