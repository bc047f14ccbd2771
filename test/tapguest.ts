/**
 * A stand-in for a virtual machine: a process that holds a TAP device, as QEMU would, and behind it a network
 * namespace that plays the guest.
 *
 *   fabric ── t-<id> ── descriptor ── [pump] ── packet(7) on cable0 ══ eth0 ── guest
 */
import { launchService, type Service } from '#host/launch.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { syscall } from '#host/syscalls.ts';
import { inNetns } from '#fabric/netns.ts';
import { openLinks } from '#fabric/netlink/links.ts';
import { parseAddress } from '#fabric/addresses.ts';
import { type Netbed, makeNetns } from './netbed.ts';

const AF_PACKET = 17;
const SOL_PACKET = 263;
const PACKET_VNET_HDR = 15;
const RAW = 3 | 0o2000000;
const EVERY_PROTOCOL = 0x0300; // htons(ETH_P_ALL)

/** Copies frames, with the virtio-net header that both sides put in front, until it is killed. */
const pump = `
import { syscall, trySyscall } from '${import.meta.dirname}/../src/host/syscalls.ts';
const [tap, cable] = [3, 4];
const frame = Buffer.allocUnsafeSlow(131072);
const from = Buffer.alloc(20), size = Int32Array.of(20);
const polls = new DataView(new ArrayBuffer(16));
for (const [index, fd] of [tap, cable].entries()) { polls.setInt32(8 * index, fd, true); polls.setInt16(8 * index + 4, 1, true); }
for (;;) {
  trySyscall('poll', polls, 2, -1);
  for (;;) {
    const length = trySyscall('read', tap, frame, frame.length);
    if (length === -77) process.exit(0); // EBADFD: the fabric took the device away
    if (length <= 0) break;
    trySyscall('write', cable, frame, length);
  }
  for (;;) {
    const length = trySyscall('recvfrom', cable, frame, frame.length, 0x40, from, size);
    if (length <= 0) break;
    if (from[10] !== 4) trySyscall('write', tap, frame, length); // 4: PACKET_OUTGOING, our own
  }
}`;

/** Made before it is plugged; what is behind the wire can be looked at before it is powered on. */
export interface TapGuest extends Netbed {
  /** The process that holds the device, once `powerOn` was called. */
  readonly holder: Service | undefined;
  /** Takes the device over; the descriptor here is closed. */
  powerOn(fd: Fd): Promise<void>;
}

/** A guest with its address on eth0, and a default route unless `gateway` is undefined. */
export async function makeGuest({
  address,
  prefix = 16,
  gateway,
  mac,
}: {
  address?: string | undefined;
  prefix?: number;
  gateway?: string | undefined;
  mac: string;
}): Promise<TapGuest> {
  await using undo = new AsyncDisposableStack();
  const bed = undo.use(await makeNetns());
  const cable = undo.use(await makeNetns());
  let socket: Fd;
  {
    using links = inNetns(bed.pid, () => openLinks());
    using outer = inNetns(cable.pid, () => openLinks());
    await outer.createVeth({
      name: 'cable0',
      master: 0,
      peer: { netns: { pid: bed.pid }, name: 'eth0', mac },
    });
    const eth0 = await links.find('eth0');
    await links.setUp('lo');
    if (address !== undefined) await links.addAddress(eth0?.index ?? 0, parseAddress(address), prefix);
    await links.setUp('eth0');
    if (gateway !== undefined) await links.addDefaultRoute(parseAddress(gateway));
    socket = inNetns(cable.pid, () => ownFd(syscall('socket', AF_PACKET, RAW, EVERY_PROTOCOL)));
    undo.use(socket);
    const name = new DataView(new ArrayBuffer(20)); // struct sockaddr_ll
    name.setUint16(0, AF_PACKET, true);
    name.setUint16(2, EVERY_PROTOCOL, true);
    name.setInt32(4, (await outer.find('cable0'))?.index ?? 0, true);
    syscall('setsockopt', socket.fd, SOL_PACKET, PACKET_VNET_HDR, Int32Array.of(1), 4);
    syscall('bind', socket.fd, name, 20);
  }
  let holder: Service | undefined;
  undo.defer(async () => void (await holder?.stop({ graceMs: 100 })));
  const resources = undo.move();
  return {
    ...bed,
    get holder() {
      return holder;
    },
    async powerOn(fd) {
      try {
        holder = await launchService([process.execPath, '--input-type=module-typescript', '-e', pump], {
          stdio: ['ignore', 'ignore', 'inherit', fd.fd, socket.fd],
        });
      } finally {
        fd.close();
      }
    },
    [Symbol.asyncDispose]: async () => await resources.disposeAsync(),
  };
}
