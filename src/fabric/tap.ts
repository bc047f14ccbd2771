/**
 * TAP devices (Documentation/networking/tuntap.rst in the Linux source): the wire of a virtual machine. One lives
 * as long as its descriptor, which QEMU holds: nothing of it is left when QEMU ends, however it ends.
 */
import { constants } from 'node:fs';
import { CarrelError } from '#base/errors.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { cString, errnoName, syscallError, trySyscall } from '#host/syscalls.ts';
import { openLinks } from './netlink/links.ts';

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

/** The door to all of them. `host_unsupported` where the kernel has no TAP devices. */
function openDoor(): Fd {
  const path = '/dev/net/tun';
  const opened = trySyscall('openat', AT_FDCWD, cString(path), FLAGS, 0);
  if (opened >= 0) return ownFd(opened);
  const errno = errnoName(opened);
  if (errno !== 'ENOENT' && errno !== 'ENODEV' && errno !== 'ENXIO') throw syscallError('open', opened, path);
  throw new CarrelError('host_unsupported', `This host has no TAP devices: ${path}: ${errno}`, {
    hint: 'load the kernel module: modprobe tun',
    details: { errno, path },
  });
}

/** Takes the device `name`, or makes it; a descriptor, or -errno. */
function attach(name: string): Fd | number {
  const device = openDoor();
  const request = Buffer.alloc(IFREQ);
  request.write(name, 0, IFNAMSIZ - 1, 'latin1');
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, IFNAMSIZ);
  const result = trySyscall('ioctl', device.fd, TUNSETIFF, request);
  if (result >= 0) return device;
  device.close();
  return result;
}

/**
 * Makes the device `name` in the network namespace of the calling thread; it is down yet. Frames on the descriptor
 * begin with a virtio-net header, as QEMU's `-netdev tap,fd=N` wants it. Throws `host_unsupported` where the
 * kernel has no TAP devices.
 */
export function openTap(name: string): Fd {
  const device = attach(name);
  if (typeof device === 'number') throw syscallError('TUNSETIFF', device, name);
  return device;
}

const missing = (name: string): CarrelError =>
  new CarrelError('not_found', `there is no TAP device ${name}`, {
    hint: `make it, and give it an address: ip tuntap add dev ${name} mode tap && ip addr add 192.168.241.1/24 dev ${name} && ip link set ${name} up`,
  });

/** What the kernel means by its answer to TUNSETIFF (drivers/net/tun.c: tun_set_iff, tun_attach). */
function refusal(name: string, result: number): Error {
  switch (errnoName(result)) {
    case 'EBUSY':
      return new CarrelError('wrong_state', `the TAP device ${name} is in use by another program`, {
        hint: `a TAP is the wire of one machine: end the other one, or make a second TAP; fuser -v /dev/net/tun names who has one open`,
      });
    case 'EPERM':
      return new CarrelError('forbidden', `the TAP device ${name} is not this account's`, {
        hint: `make it for this account: ip tuntap add dev ${name} mode tap user NAME`,
      });
    case 'EINVAL':
      return new CarrelError('invalid_request', `${name} is no TAP device with one queue`, {
        hint: `make one: ip tuntap add dev OTHER mode tap (without multi_queue; mode tun has no Ethernet frames)`,
      });
    default:
      return syscallError('TUNSETIFF', result, name);
  }
}

export interface HostTap extends Fd {
  /** Frames go nowhere while it is down. */
  readonly isUp: boolean;
}

/**
 * Takes a device that somebody made, and that is there when the descriptor is closed. As `openTap`, but one that is
 * missing is `not_found` and not made: it would be gone with the descriptor, and lead nowhere.
 */
export async function openHostTap(name: string): Promise<HostTap> {
  if (!/^[\w.-]{1,15}$/.test(name) || /^\.\.?$/.test(name))
    throw new CarrelError('invalid_request', `${JSON.stringify(name)} is no name of a network interface`, {
      hint: 'it has 1 to 15 letters, digits, - _ .',
    });
  using links = openLinks();
  const link = await links.find(name);
  if (!link) throw missing(name);
  const device = attach(name);
  if (typeof device === 'number') throw refusal(name, device);
  // deleted meanwhile: we have just made another one
  if ((await links.find(name))?.index === link.index) return Object.assign(device, { isUp: link.up });
  device.close();
  throw missing(name);
}
