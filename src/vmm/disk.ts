/**
 * A disk for a guest of the kit: virtio-blk at one address, served by the vCPU's own thread. For real Linux there is
 * more (src/vmm/linux); for a driver that a student writes, this is all of it.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { trySyscall } from '#host/syscalls.ts';
import type { GuestMemory } from '#kvm/memory.ts';
import type { RunPage } from '#kvm/runpage.ts';
import { MmioBus } from './devices/bus.ts';
import { createBlock } from './virtio/block/block.ts';
import { fileStore } from './virtio/block/store.ts';
import { describeFault } from './virtio/fault.ts';
import { VirtioMmio } from './virtio/mmio.ts';

/** Guest-physical address of its registers: far above all memory of such a machine (guests/virtio.h has it too). */
export const diskAddress = 0xd000_0000;

/** A disk as a thread is told of it: the descriptor belongs to the process. */
export interface DiskHandle {
  readonly fd: number;
  readonly readOnly: boolean;
}

export interface DiskOptions {
  /** A raw image. */
  readonly path: string;
  readonly readOnly?: boolean;
}

const LOCK_SH = 1;
const LOCK_EX = 2;
const LOCK_NB = 4;

/** Opens an image, and keeps others from writing to it meanwhile (flock(2)). */
export function openDisk({ path, readOnly = false }: DiskOptions): Fd & DiskHandle {
  let fd: number;
  try {
    fd = openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR);
  } catch (cause) {
    const hint = errnoOf(cause) === 'ENOENT' ? `make one: truncate --size 1M ${path}` : undefined;
    throw new CarrelError(
      'invalid_request',
      `the disk ${path} cannot be opened: ${errnoOf(cause) ?? 'unknown'}`,
      {
        ...(hint !== undefined && { hint }),
        cause,
      },
    );
  }
  try {
    fileStore(fd, { readOnly }); // says what is no disk
    if (trySyscall('flock', fd, (readOnly ? LOCK_SH : LOCK_EX) | LOCK_NB) < 0)
      throw new CarrelError('wrong_state', `the disk ${path} is in use by another machine`);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return Object.assign(ownFd(fd), { readOnly });
}

export interface DiskBus {
  /** Serves an exit of kind MMIO; false: there is no device at this address. */
  serve(page: RunPage): boolean;
  /** What the operator should know: why the device waits for its reset, what the image could not do. */
  readonly remarks: readonly string[];
}

/** More are one and the same mistake in a loop. */
const mostRemarks = 16;

/** The device at its address. `interrupted`: the guest is to be stopped, and a long pass is not to be waited for. */
export function openDiskBus(
  { fd, readOnly }: DiskHandle,
  memory: GuestMemory,
  interrupted: () => boolean,
): DiskBus {
  const remarks: string[] = [];
  const remark = (text: string): void => {
    if (remarks.length < mostRemarks) remarks.push(text);
  };
  const device = new VirtioMmio({
    device: createBlock({
      store: fileStore(fd, { readOnly }),
      id: 'carrel',
      onError: (what, errno) => remark(`virtio-blk: ${what}: ${errno}`),
    }),
    ram: memory,
    irq: { set: () => undefined }, // such a machine has no interrupt controller: its guests look at the used ring
    interrupted,
    onFault: (fault) => remark(describeFault('virtio-blk', fault)),
  });
  const bus = new MmioBus();
  bus.add(diskAddress, device.bytes, device);
  const end = BigInt(diskAddress + device.bytes);
  return {
    remarks,
    serve(page) {
      const { address, length, isWrite } = page.mmio;
      if (address < BigInt(diskAddress) || address >= end) return false;
      if (isWrite) bus.write(Number(address), length, page.mmioData);
      else page.mmioData = bus.read(Number(address), length);
      return true;
    },
  };
}
