/**
 * Puts all that a kernel finds at its first instruction into RAM: itself, its initramfs, the command line,
 * boot_params, the MP table, descriptors and page tables. Everything is checked before the first byte is written.
 */
import { CarrelError } from '#base/errors.ts';
import { formatSize, hex } from '#base/units.ts';
import { bootParams } from './boot-params.ts';
import { e820 } from './e820.ts';
import { bootGdt, bootPageTables } from './entry-state.ts';
import type { LinuxKernel } from './kernel.ts';
import { commandLineCapacity, place } from './layout.ts';
import { mpTable } from './mptable.ts';
import type { LinuxRam, Stretch } from './ram.ts';

const pageBytes = 4096;

export interface LoadOptions {
  readonly kernel: LinuxKernel;
  readonly initrd: Uint8Array | undefined;
  readonly commandLine: string;
  readonly vcpus: number;
  /** Pins of the IO-APIC whose devices are level-triggered. */
  readonly levels: readonly number[];
}

/**
 * Bytes of the command line with its NUL. `invalid_request` when there is no room for all of it, or when the kernel
 * would not read all of it (cmdline_size of its header, without the NUL).
 */
function commandLineBytes(commandLine: string, most: number): Buffer {
  if (/[^ -~]/.test(commandLine))
    throw new CarrelError('invalid_request', 'a kernel’s command line is printable ASCII');
  const { length } = commandLine;
  const room = commandLineCapacity - 1;
  if (length > Math.min(most, room))
    throw new CarrelError(
      'invalid_request',
      `the command line has ${length} characters; ${most < room ? `this kernel reads ${most} and drops the rest` : `there is room for ${room}`}`,
      {
        hint: 'shorten --cmdline; behind it come a parameter for each device, and those for a KVM that emulates',
      },
    );
  return Buffer.from(`${commandLine}\0`, 'latin1');
}

/** First address behind the low RAM. */
function lowEnd(ram: LinuxRam): number {
  const [low] = ram.stretches;
  return low === undefined ? 0 : low.length;
}

/** All that the kernel needs is there. */
function checkRoom({ needs }: LinuxKernel, end: number): void {
  const needed = Math.max(...needs.map(({ at, length }) => at + length));
  if (needed > end)
    throw new CarrelError(
      'invalid_request',
      `the kernel needs memory up to ${formatSize(needed)}; the machine has ${formatSize(end)} there`,
      { hint: 'give it more memory: --mem 256M' },
    );
}

/** As high as kernel and RAM allow, where boot loaders put it: the kernel grows upwards from below. */
function placeInitrd(initrd: Uint8Array, { needs, initrdMax }: LinuxKernel, end: number): Stretch {
  const top = Math.min(end, initrdMax + 1);
  const at = Math.floor((top - initrd.length) / pageBytes) * pageBytes;
  const kernelEnd = Math.max(...needs.map((need) => need.at + need.length));
  if (at < kernelEnd)
    throw new CarrelError(
      'invalid_request',
      `the initramfs has ${formatSize(initrd.length)}; between the kernel, which needs all below ${hex(kernelEnd)}, and ${hex(top)} there is no room for it`,
      { hint: 'give the machine more memory' },
    );
  return { at, length: initrd.length };
}

/** Where everything went; for messages and tests. */
export interface Loaded {
  readonly initrd: Stretch | undefined;
  readonly entry: number;
}

export function loadLinux(
  ram: LinuxRam,
  { kernel, initrd, commandLine, vcpus, levels }: LoadOptions,
): Loaded {
  const line = commandLineBytes(commandLine, kernel.commandLineMax);
  const end = lowEnd(ram);
  checkRoom(kernel, end);
  const initrdAt = initrd && initrd.length > 0 ? placeInitrd(initrd, kernel, end) : undefined;
  const table = mpTable({ vcpus, levels });
  const params = bootParams({
    header: kernel.header,
    commandLineAt: place.commandLine,
    initrd: initrdAt,
    e820: e820(ram.stretches),
    loadAddress: kernel.parts[0]?.at ?? place.high,
  });

  for (const { at, bytes } of kernel.parts) ram.put(at, bytes);
  if (initrd && initrdAt) ram.put(initrdAt.at, initrd);
  ram.put(place.commandLine, line);
  ram.put(place.bootParams, params);
  ram.put(place.mpTable, table);
  ram.put(place.gdt, bootGdt());
  ram.put(place.pageTables, bootPageTables());
  return { initrd: initrdAt, entry: kernel.entry };
}
