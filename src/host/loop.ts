/**
 * Loop devices that vanish by themselves: loop(4). With AUTOCLEAR the device lets go of its file when the last
 * opener is gone, so: attach, mount, close our descriptor; the unmount (or the end of the mount namespace, or of
 * this process before the mount) frees it. Nothing to clean up, nothing to leak.
 */
import { openSync } from 'node:fs';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { type Fd, ownFd } from './fds.ts';
import { cString, errnoName, syscall, syscallError, trySyscall } from './syscalls.ts';

/** linux/loop.h */
const LOOP_CONFIGURE = 0x4c0a;
const LOOP_CTL_GET_FREE = 0x4c82;
const LO_FLAGS_READ_ONLY = 1;
const LO_FLAGS_AUTOCLEAR = 4;
const LOOP_MAJOR = 7;
const S_IFBLK = 0o060000;
const AT_FDCWD = -100;
/** struct loop_config: u32 fd, u32 block size, struct loop_info64 (232 bytes), 8 reserved u64. */
const CONFIG_BYTES = 304;
const INFO_OFFSET = 8;
const INFO_FLAGS = INFO_OFFSET + 52;
const INFO_NAME = INFO_OFFSET + 56;

export interface LoopDevice extends Disposable {
  /** For mount(2), for example `/dev/loop3`. */
  readonly path: string;
  /** Keeps the device attached while it is open. */
  readonly device: Fd;
}

/** The node of loop device `number`; made if /dev is not a devtmpfs that does it. */
function openNode(number: number, flags: string): { path: string; device: Fd } {
  const path = `/dev/loop${number}`;
  try {
    return { path, device: ownFd(openSync(path, flags)) };
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
    syscall('mknodat', AT_FDCWD, cString(path), S_IFBLK | 0o600, (LOOP_MAJOR << 8) | number);
    return { path, device: ownFd(openSync(path, flags)) };
  }
}

/**
 * Attaches a file to a free loop device.
 *
 * @example
 * using loop = attachLoop('/var/lib/carrel/machines/m-.../upper.img');
 * await launchOk(['mount', '-t', 'ext4', loop.path, target]);
 */
export function attachLoop(file: string, { readOnly = false }: { readOnly?: boolean } = {}): LoopDevice {
  using control = openControl();
  using backing = ownFd(openSync(file, readOnly ? 'r' : 'r+'));
  const config = Buffer.alloc(CONFIG_BYTES);
  config.writeUInt32LE(backing.fd, 0);
  config.writeUInt32LE(LO_FLAGS_AUTOCLEAR | (readOnly ? LO_FLAGS_READ_ONLY : 0), INFO_FLAGS);
  config.write(file.slice(-63), INFO_NAME); // for people: losetup shows it
  for (let attempt = 0; attempt < 50; attempt += 1) {
    const number = syscall('ioctl', control.fd, LOOP_CTL_GET_FREE, 0);
    const { path, device } = openNode(number, readOnly ? 'r' : 'r+');
    const result = trySyscall('ioctl', device.fd, LOOP_CONFIGURE, config);
    if (result === 0) return { path, device, [Symbol.dispose]: () => device.close() };
    device.close();
    // EBUSY: somebody else took the one we were told is free
    if (errnoName(result) !== 'EBUSY') throw syscallError('LOOP_CONFIGURE', result, file);
  }
  throw new CarrelError(
    'no_capacity',
    'No loop device could be had: others take them as fast as they are free',
  );
}

function openControl(): Fd {
  try {
    return ownFd(openSync('/dev/loop-control', 'r+'));
  } catch (cause) {
    throw new CarrelError(
      'host_unsupported',
      `Loop devices cannot be used: ${errnoOf(cause) ?? 'unknown error'}`,
      {
        hint: 'load the kernel module: modprobe loop',
        cause,
      },
    );
  }
}
