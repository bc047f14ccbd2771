/**
 * The kernel proper out of a bzImage. A PC starts a bzImage, which unpacks the ELF file in it; under emulation
 * that takes most of a second, and QEMU can load the ELF file itself (PVH entry point).
 */
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { CarrelError } from '#base/errors.ts';
import { lz4LegacyMagic, unpackLz4Legacy } from './lz4.ts';

/** A kernel unpacked; Debian's has some 40 MiB. */
const maxKernelBytes = 256 * 2 ** 20;

/** Fields of the setup header (Documentation/arch/x86/boot.rst). */
const setupSectorsAt = 0x1f1;
const magicAt = 0x202;
const versionAt = 0x206;
const payloadOffsetAt = 0x248;
const payloadLengthAt = 0x24c;
/** The first protocol that names its payload. */
const payloadVersion = 0x0208;

const unpackers: readonly {
  readonly name: string;
  readonly magic: readonly number[];
  readonly unpack: (packed: Buffer) => Buffer;
}[] = [
  {
    name: 'gzip',
    magic: [0x1f, 0x8b],
    unpack: (packed) => gunzipSync(packed, { maxOutputLength: maxKernelBytes }),
  },
  {
    name: 'zstd',
    magic: [0x28, 0xb5, 0x2f, 0xfd],
    unpack: (packed) => zstdDecompressSync(packed, { maxOutputLength: maxKernelBytes }),
  },
  {
    name: 'lz4',
    magic: [
      lz4LegacyMagic & 0xff,
      (lz4LegacyMagic >> 8) & 0xff,
      (lz4LegacyMagic >> 16) & 0xff,
      lz4LegacyMagic >>> 24,
    ],
    unpack: (packed) => unpackLz4Legacy(packed, { limit: maxKernelBytes }),
  },
];

const bad = (why: string): CarrelError =>
  new CarrelError('validation_failed', `this is not a bzImage: ${why}`);

/** The packed kernel inside, without the length that the build appends to it. */
function payloadOf(image: Buffer): Buffer {
  if (image.length < 0x260 || image.toString('latin1', magicAt, magicAt + 4) !== 'HdrS')
    throw bad('it has no setup header');
  if (image.readUInt16LE(versionAt) < payloadVersion) throw bad('its boot protocol is older than 2.08');
  const setupSectors = image[setupSectorsAt] ?? 0;
  // 0 means 4, for ancient reasons; the boot sector itself is not counted.
  const protectedAt = ((setupSectors === 0 ? 4 : setupSectors) + 1) * 512;
  const from = protectedAt + image.readUInt32LE(payloadOffsetAt);
  const length = image.readUInt32LE(payloadLengthAt);
  if (length < 8 || from + length > image.length) throw bad('its payload is cut off');
  return image.subarray(from, from + length - 4);
}

/** The ELF kernel in a bzImage; undefined when it is packed in a way that we do not unpack (boot the bzImage then). */
export function unpackKernel(image: Buffer): Buffer | undefined {
  const payload = payloadOf(image);
  const unpacker = unpackers.find(({ magic }) => magic.every((byte, index) => payload[index] === byte));
  if (!unpacker) return undefined;
  const elf = unpacker.unpack(payload);
  if (elf.length < 64 || elf.readUInt32BE(0) !== 0x7f454c46)
    throw new CarrelError(
      'validation_failed',
      `the ${unpacker.name} payload of this bzImage is not an ELF file`,
    );
  return elf;
}
