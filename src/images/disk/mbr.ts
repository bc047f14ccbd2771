/**
 * The first megabyte of a disk that a PC's BIOS can boot: the master boot record with its table of
 * partitions, GRUB's first sector in it, and the rest of GRUB in the gap before the first partition.
 */
import { CarrelError } from '#base/errors.ts';

export const sectorBytes = 512;
/** Where the only partition begins: what every partitioner has chosen since disks have sectors of 4 KiB. */
export const partitionOffset = 2 ** 20;

/** Offsets in the boot record. */
const tableAt = 0x1be;
const signatureAt = 0x1fe;
/** Code before it, the disk's signature after it (4 bytes, then 2 that are zero). */
const diskSignatureAt = 0x1b8;
/** Fields of GRUB's boot.img (grub-core/boot/i386/pc/boot.S): where its second part lies, and on which drive. */
const grubSectorAt = 0x5c;
const grubDriveAt = 0x64;
const grubDriveCheckAt = 0x66;
/** The drive that the BIOS booted from. */
const anyDrive = 0xff;

const linuxPartition = 0x83;
const active = 0x80;
const maxSectors = 2 ** 32 - 1;

export interface Partition {
  readonly firstSector: number;
  readonly sectors: number;
}

/** One active Linux partition, in an otherwise empty table (16 bytes per entry; cylinders are not used any more). */
export function partitionEntry({ firstSector, sectors }: Partition): Buffer {
  if (firstSector < 1 || sectors < 1 || firstSector + sectors > maxSectors)
    throw new CarrelError('validation_failed', 'a partition of this kind must end below 2 TiB');
  const entry = Buffer.alloc(16);
  entry[0] = active;
  entry[4] = linuxPartition;
  // "Beyond what cylinders can say": readers then use the sector numbers.
  entry.set([0xfe, 0xff, 0xff], 1);
  entry.set([0xfe, 0xff, 0xff], 5);
  entry.writeUInt32LE(firstSector, 8);
  entry.writeUInt32LE(sectors, 12);
  return entry;
}

/** The first partition of a boot record; undefined when there is none, or no record. */
export function readPartition(record: Uint8Array): Partition | undefined {
  const bytes = Buffer.from(record.buffer, record.byteOffset, record.byteLength);
  if (bytes.length < sectorBytes || bytes.readUInt16LE(signatureAt) !== 0xaa55) return undefined;
  const partition = {
    firstSector: bytes.readUInt32LE(tableAt + 8),
    sectors: bytes.readUInt32LE(tableAt + 12),
  };
  return partition.sectors > 0 && partition.firstSector > 0 ? partition : undefined;
}

export interface BootParts {
  /** GRUB's boot.img, 512 bytes. */
  readonly boot: Uint8Array;
  /** GRUB's core.img, as grub-mkimage makes it for i386-pc. */
  readonly core: Uint8Array;
  /** Of the whole disk, in bytes. */
  readonly diskBytes: number;
  /** Any 32 bits; names the disk. */
  readonly signature: number;
}

/** Everything before the first partition: write it at the beginning of the disk. */
export function bootArea({ boot, core, diskBytes, signature }: BootParts): Buffer {
  if (boot.length !== sectorBytes)
    throw new CarrelError(
      'helper_failed',
      `GRUB's boot.img has ${boot.length} bytes instead of ${sectorBytes}`,
    );
  if (core.length > partitionOffset - sectorBytes)
    throw new CarrelError(
      'helper_failed',
      `GRUB's core.img (${core.length} bytes) does not fit before the partition`,
    );
  if (diskBytes % sectorBytes !== 0 || diskBytes <= partitionOffset)
    throw new CarrelError('validation_failed', `a disk cannot have ${diskBytes} bytes`);
  const area = Buffer.alloc(partitionOffset);
  area.set(boot);
  area.writeBigUInt64LE(1n, grubSectorAt);
  area[grubDriveAt] = anyDrive;
  // Two no-operations instead of a jump: correct the drive of a BIOS that hands over a wrong one.
  area.set([0x90, 0x90], grubDriveCheckAt);
  area.fill(0, diskSignatureAt, signatureAt);
  area.writeUInt32LE(signature >>> 0, diskSignatureAt);
  const firstSector = partitionOffset / sectorBytes;
  area.set(partitionEntry({ firstSector, sectors: diskBytes / sectorBytes - firstSector }), tableAt);
  area.writeUInt16LE(0xaa55, signatureAt);
  area.set(core, sectorBytes);
  return area;
}
