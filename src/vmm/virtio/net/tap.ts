/** The other end of a network device: a TAP (Documentation/networking/tuntap.rst in the Linux source). */
import { errnoName, syscall, trySyscall } from '#host/syscalls.ts';
import type { Pieces } from '../pieces.ts';

/** What a network device needs of a wire. Neither call waits. */
export interface FramePort {
  /** The next frame, valid until the next call; undefined: none is there; 'gone': none will ever be. */
  receive(): Uint8Array | 'gone' | undefined;
  /** Sends a frame, in pieces; false if the wire did not take it: it is lost, as on any wire. */
  send(frame: Pieces): boolean;
}

// linux/if_tun.h
const TUNSETVNETHDRSZ = 0x400454d8;
const TUNSETOFFLOAD = 0x400454d0;

/** struct virtio_net_hdr_v1: all zeros mean a frame as it is, with nothing left to be done to it. */
export const vnetHeaderBytes = 12;

/** A TAP without offloads has no larger frames: 64 KiB of payload, an Ethernet header, and a VLAN tag. */
export const mostFrameBytes = 65_535 + 18;

/**
 * On a TAP device that was opened with IFF_VNET_HDR | IFF_NO_PI and O_NONBLOCK, and stays the caller's. Offloads
 * are switched off: whole frames with their checksums, so that the header says nothing.
 */
export function tapPort(fd: number): FramePort {
  syscall('ioctl', fd, TUNSETVNETHDRSZ, Int32Array.of(vnetHeaderBytes));
  syscall('ioctl', fd, TUNSETOFFLOAD, 0);
  const received = new Uint8Array(vnetHeaderBytes + mostFrameBytes);
  const sent = new Uint8Array(vnetHeaderBytes + mostFrameBytes);
  return {
    receive() {
      for (;;) {
        const length = trySyscall('read', fd, received, received.length);
        if (length >= vnetHeaderBytes) return received.subarray(vnetHeaderBytes, length);
        if (length >= 0) continue;
        const errno = errnoName(length);
        if (errno === 'EINTR') continue;
        // EIO: the interface is down. EBADFD: it was deleted
        return errno === 'EAGAIN' || errno === 'EIO' ? undefined : 'gone';
      }
    },
    send(frame) {
      let at = vnetHeaderBytes;
      for (const piece of frame) {
        if (at + piece.length > sent.length) return false;
        sent.set(piece, at);
        at += piece.length;
      }
      return trySyscall('write', fd, sent, at) === at;
    },
  };
}
