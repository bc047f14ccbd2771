import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { fuzzRuns } from '#base/fuzz.ts';
import { e820, e820Type } from './e820.ts';
import { bootPageTables } from './entry-state.ts';
import { header } from './header.ts';
import { type LinuxKernel, mostKernelBytes } from './kernel.ts';
import { hole, place } from './layout.ts';
import { loadLinux } from './load.ts';
import { LinuxRam, layOutRam } from './ram.ts';
import { readKernel } from './read-kernel.ts';
import { makeBzImage, makeVmlinux } from './testing.ts';

const MiB = 2 ** 20;
const refused = (code: 'invalid_request' | 'validation_failed', words: RegExp) => (error: unknown) =>
  isCarrelError(error, code) && words.test(error.message);

const u32 = (ram: LinuxRam, at: number): number => {
  const bytes = ram.slice(BigInt(at), 4);
  assert.ok(bytes);
  return Buffer.from(bytes).readUInt32LE();
};

const options = { initrd: undefined, commandLine: 'console=ttyS0', vcpus: 1, levels: [] } as const;

test('a bzImage goes to 1 MiB, its header to boot_params, and its entry is 0x200 bytes in', () => {
  const kernel = readKernel(makeBzImage());
  assert.equal(kernel.kind, 'bzImage');
  assert.equal(kernel.version, '6.1.0-carrel (test)');
  const ram = LinuxRam.allocate(64 * MiB);
  const initrd = Buffer.alloc(5000, 0xab);
  const loaded = loadLinux(ram, { ...options, kernel, initrd });
  assert.equal(loaded.entry, 0x10_0200);
  assert.deepEqual(ram.slice(0x10_0200n, 4), new Uint8Array([0x90, 0x90, 0xf4, 0xf4]));
  const zero = place.bootParams;
  assert.equal(u32(ram, zero + header.magic), 0x5372_6448);
  assert.equal(u32(ram, zero + header.type_of_loader) & 0xff, 0xff);
  assert.equal(u32(ram, zero + header.code32_start), MiB);
  assert.equal(u32(ram, zero + header.cmd_line_ptr), place.commandLine);
  assert.equal(u32(ram, zero + header.ramdisk_image), 64 * MiB - 8192);
  assert.equal(u32(ram, zero + header.ramdisk_size), 5000);
  assert.deepEqual(ram.slice(64n * 2n ** 20n - 8192n, 5000), new Uint8Array(initrd));
  assert.equal(Buffer.from(ram.slice(BigInt(place.commandLine), 14) ?? []).toString(), 'console=ttyS0\0');
  assert.equal(u32(ram, zero + 0x1e8) & 0xff, 4, 'entries of the memory map');
});

test('an ELF kernel goes where its segments say, also when its entry is a virtual address', () => {
  const physical = readKernel(makeVmlinux());
  assert.equal(physical.entry, 0x100_0010);
  assert.equal(readKernel(makeVmlinux({ entry: 0xffff_ffff_8100_0010n })).entry, 0x100_0010);
  const ram = LinuxRam.allocate(32 * MiB);
  loadLinux(ram, { ...options, kernel: physical });
  assert.deepEqual(ram.slice(0x100_0000n, 3), new Uint8Array([0x90, 0x90, 0x90]));
  assert.throws(() => readKernel(makeVmlinux(), 0x20_0000), refused('invalid_request', /says itself/));
});

test('what a kernel cannot have is refused, with the number that is wrong', () => {
  const cases: readonly (readonly [Parameters<typeof makeBzImage>[0], RegExp])[] = [
    [{ version: 0x20b }, /version 2\.11/],
    [{ xloadflags: 0 }, /no 64-bit entry/],
    [{ loadflags: 0 }, /zImage/],
    [{ bootFlag: 0 }, /boot flag/],
    [{ syssize: 0xffff_ffff }, /cut off/],
    [{ setupSectors: 255 }, /cut off/],
    [{ jump: 0xff }, /header that ends/],
    [{ jump: 0 }, /header that ends/],
    [{ alignment: 0x30_0000 }, /no power of two/],
    [{ alignment: 0 }, /no power of two/],
    [{ preferred: 2n ** 63n }, /no place/],
  ];
  for (const [change, words] of cases)
    assert.throws(() => readKernel(makeBzImage(change)), refused('validation_failed', words));
  assert.throws(() => readKernel(makeBzImage({ relocatable: 0 }), 0x20_0000), /not relocatable/);
  assert.throws(() => readKernel(makeBzImage(), 0x8000), /cannot lie at/);
  assert.throws(() => readKernel(Buffer.from('#!/bin/sh\n')), /neither/);
  assert.throws(() => readKernel(new Uint8Array(0)), /neither/);
  assert.throws(
    () => readKernel(new Uint8Array(mostKernelBytes + 1)),
    (error) => isCarrelError(error, 'too_large'),
  );
});

test('memory that does not suffice is said before anything is written', () => {
  const large = readKernel(makeBzImage({ initSize: 512 * MiB }));
  const ram = LinuxRam.allocate(64 * MiB);
  assert.throws(
    () => loadLinux(ram, { ...options, kernel: large }),
    refused('invalid_request', /up to 528 MiB; the machine has 64 MiB/),
  );
  const kernel = readKernel(makeBzImage());
  for (const [change, words] of [
    [{ initrd: new Uint8Array(60 * MiB) }, /no room/],
    [{ commandLine: 'a\0b' }, /printable/],
    [{ commandLine: 'ü' }, /printable/],
    [{ vcpus: 255 }, /1 to 254/],
  ] as const)
    assert.throws(() => loadLinux(ram, { ...options, kernel, ...change }), refused('invalid_request', words));
  const [piece] = ram.pieces;
  assert.ok(piece?.memory.bytes.subarray(0, 2 * MiB).every((byte) => byte === 0));
  for (const bytes of [0, 4096, 16 * MiB + 1, 2 ** 50, Number.NaN, -1])
    assert.throws(() => layOutRam(bytes), refused('invalid_request', /a machine has/));
});

const loadWithLine = (length: number, kernel: LinuxKernel) =>
  loadLinux(LinuxRam.allocate(64 * MiB), { ...options, kernel, commandLine: 'x'.repeat(length) });

test('a command line is as long as the kernel reads it, and never longer than its room', () => {
  // what the kernels of x86 say of themselves, and what is known of those that say nothing
  for (const kernel of [readKernel(makeBzImage()), readKernel(makeVmlinux())]) {
    loadWithLine(2047, kernel);
    assert.throws(
      () => loadWithLine(2048, kernel),
      refused('invalid_request', /2048 characters; this kernel reads 2047 and drops the rest/),
    );
  }
  const patient = readKernel(makeBzImage({ commandLineMax: 0xffff_ffff }));
  loadWithLine(4095, patient);
  assert.throws(
    () => loadWithLine(4096, patient),
    refused('invalid_request', /4096 characters; there is room for 4095/),
  );
  const short = readKernel(makeBzImage({ commandLineMax: 255 }));
  assert.throws(() => loadWithLine(256, short), refused('invalid_request', /this kernel reads 255/));
});

test('an initramfs lies below what its kernel allows', () => {
  const kernel = readKernel(makeBzImage({ initrdMax: 48 * MiB - 1 }));
  const { initrd } = loadLinux(LinuxRam.allocate(64 * MiB), {
    ...options,
    kernel,
    initrd: new Uint8Array(MiB),
  });
  assert.deepEqual(initrd, { at: 47 * MiB, length: MiB });
});

test('RAM leaves the hole free, and the memory map has each byte of it once', () => {
  fc.assert(
    fc.property(fc.integer({ min: 4096, max: 4 * 2 ** 20 }), (pages) => {
      const stretches = layOutRam(pages * 4096);
      assert.equal(
        stretches.reduce((sum, { length }) => sum + length, 0),
        pages * 4096,
      );
      const map = e820(stretches);
      let end = 0;
      for (const { at, length } of map) {
        assert.ok(at >= end && length > 0);
        assert.ok(at + length <= hole.from || at >= hole.to);
        end = at + length;
      }
      const usable = map
        .filter(({ type }) => type === e820Type.ram)
        .reduce((sum, { length }) => sum + length, 0);
      assert.ok(pages * 4096 - usable <= 0.001 * pages * 4096 + 0x10_0000 - place.conventionalEnd);
    }),
  );
});

test('RAM above 4 GiB is found there, and a range across an end is none', () => {
  const ram = LinuxRam.allocate(4 * 2 ** 30);
  ram.put(0x1_0000_0000, new Uint8Array([1, 2, 3]));
  assert.deepEqual(ram.slice(0x1_0000_0001n, 2), new Uint8Array([2, 3]));
  assert.equal(ram.slice(BigInt(hole.from) - 1n, 2), undefined);
  assert.equal(ram.slice(BigInt(hole.from), 1), undefined);
  assert.equal(ram.slice(0xffff_ffffn, 2), undefined);
  assert.equal(ram.slice(0x1_3fff_ffffn, 2), undefined);
  assert.equal(ram.slice(2n ** 64n - 1n, 1), undefined);
  assert.throws(() => ram.put(hole.from, new Uint8Array(1)), /outside of RAM/);
});

const next = (entry: bigint): number => Number(entry & ~0xfffn) - place.pageTables;

test('the first page tables map 4 GiB to themselves', () => {
  const tables = bootPageTables();
  const view = new DataView(tables.buffer);
  for (const address of [0n, 0x1234_5678n, 0xfec0_0000n, 0xffff_ffffn]) {
    const pdpt = next(view.getBigUint64(0, true));
    const pd = next(view.getBigUint64(pdpt + Number(address >> 30n) * 8, true));
    const page = view.getBigUint64(pd + Number((address >> 21n) & 511n) * 8, true);
    assert.equal((page & ~0x1f_ffffn) | (address & 0x1f_ffffn), address);
    assert.equal(page & 0x83n, 0x83n);
  }
});

/** Either a kernel whose every number holds, or an error of ours. */
function readHostile(bytes: Uint8Array): void {
  let kernel: LinuxKernel;
  try {
    kernel = readKernel(bytes);
  } catch (error) {
    assert.ok(error instanceof CarrelError, String(error));
    assert.notEqual(error.code, 'internal');
    return;
  }
  for (const { at, bytes: part } of kernel.parts)
    assert.ok(at >= MiB && at + part.length <= hole.from && part.length <= bytes.length);
  assert.ok(kernel.entry >= MiB && kernel.entry < hole.from);
  try {
    loadLinux(ramForAll, { ...options, kernel });
  } catch (error) {
    assert.ok(isCarrelError(error, 'invalid_request'), String(error));
  }
}
const ramForAll = LinuxRam.allocate(256 * MiB);
const numRuns = fuzzRuns(2000);

for (const [name, make] of [
  ['bzImage', makeBzImage],
  ['vmlinux', makeVmlinux],
] as const)
  test(`a ${name} with any bytes in it is loaded within RAM or refused`, { timeout: 600_000 }, () => {
    const whole = make();
    const interesting = name === 'bzImage' ? [0x1f0, 0x270] : [0, 64 + 3 * 56];
    const [low = 0, high = 0] = interesting;
    const change = fc.tuple(
      fc.integer({ min: low, max: high }),
      fc.uint8Array({ minLength: 1, maxLength: 8 }),
    );
    fc.assert(
      fc.property(fc.array(change, { maxLength: 6 }), fc.option(fc.nat(whole.length)), (changes, cut) => {
        const bytes = Uint8Array.from(whole);
        for (const [at, values] of changes) bytes.set(values, at);
        readHostile(cut === null ? bytes : bytes.subarray(0, cut));
      }),
      { numRuns },
    );
  });
