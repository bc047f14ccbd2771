/**
 * TAP devices (Documentation/networking/tuntap.rst in the Linux source): the wire of a virtual machine. One lives
 * as long as its descriptor, which QEMU holds: nothing of it is left when QEMU ends, however it ends.
 */
import { constants } from 'node:fs';
import { CarrelError } from '#base/errors.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { cString, errnoName, syscallError, trySyscall } from '#host/syscalls.ts';

// linux/if_tun.h
const TUNSETIFF = 0x400454ca;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
/** struct ifreq: a name of 16 bytes, and a union of 24. */
const IFREQ = 40;
const IFNAMSIZ = 16;

const AT_FDCWD = -100;
const FLAGS = constants.O_RDWR | constants.O_NONBLOCK | 0o2000000; // O_CLOEXEC

/**
 * Makes the device `name` in the network namespace of the calling thread; it is down yet. Frames on the descriptor
 * begin with a virtio-net header, as QEMU's `-netdev tap,fd=N` wants it. Throws `host_unsupported` where the
 * kernel has no TAP devices.
 */
export function openTap(name: string): Fd {
  const path = '/dev/net/tun';
  const opened = trySyscall('openat', AT_FDCWD, cString(path), FLAGS, 0);
  if (opened < 0) {
    const errno = errnoName(opened);
    if (errno !== 'ENOENT' && errno !== 'ENODEV' && errno !== 'ENXIO')
      throw syscallError('open', opened, path);
    throw new CarrelError('host_unsupported', `This host has no TAP devices: ${path}: ${errno}`, {
      hint: 'load the kernel module: modprobe tun',
      details: { errno, path },
    });
  }
  const device = ownFd(opened);
  const request = Buffer.alloc(IFREQ);
  request.write(name, 0, IFNAMSIZ - 1, 'latin1');
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, IFNAMSIZ);
  const result = trySyscall('ioctl', device.fd, TUNSETIFF, request);
  if (result >= 0) return device;
  device.close();
  throw syscallError('TUNSETIFF', result, name);
}
