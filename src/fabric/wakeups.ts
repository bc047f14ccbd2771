/**
 * Who wants to talk to a machine that sleeps? A packet socket on its link (packet(7)) sees what goes to the machine,
 * and a filter in the kernel (Documentation/networking/filter.rst in the Linux source) leaves only what is meant for
 * it: frames to its hardware address, and questions for its IPv4 address. It takes nothing away: the frame itself
 * waits in the device's queue until the machine reads again.
 */
import { CarrelError } from '#base/errors.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { addressOf, syscall, trySyscall } from '#host/syscalls.ts';
import { parseMac } from './addresses.ts';

const AF_PACKET = 17;
const SOL_SOCKET = 1;
const SO_ATTACH_FILTER = 26;
const RAW_NONBLOCK = 3 | 0o4000 | 0o2000000;
const EVERY_PROTOCOL = 0x0300; // htons(ETH_P_ALL)
const POLLIN = 1;
/** Frames wait as long; in between, nobody's time is used. */
const LOOK_EVERY_MS = 20;

/** Classic BPF: linux/filter.h, linux/bpf_common.h. One instruction: code, jumps if true and false, constant. */
type Instruction = readonly [code: number, jt: number, jf: number, k: number];
const LOAD_WORD = 0x20;
const LOAD_HALF = 0x28;
const JUMP_IF_EQUAL = 0x15;
const RETURN = 0x06;
const PACKET_TYPE = 0xfffff000 + 4; // SKF_AD_OFF + SKF_AD_PKTTYPE
const PACKET_OUTGOING = 4;

/** Frames that go out by the link to `mac`, and ARP requests for `address`. */
function filterFor(mac: string, address: number): readonly Instruction[] {
  const bytes = new DataView(parseMac(mac).buffer);
  return [
    [LOAD_WORD, 0, 0, PACKET_TYPE],
    [JUMP_IF_EQUAL, 0, 11, PACKET_OUTGOING],
    [LOAD_WORD, 0, 0, 0], // destination
    [JUMP_IF_EQUAL, 0, 2, bytes.getUint32(0)],
    [LOAD_HALF, 0, 0, 4],
    [JUMP_IF_EQUAL, 6, 0, bytes.getUint16(4)],
    [LOAD_HALF, 0, 0, 12], // protocol
    [JUMP_IF_EQUAL, 0, 5, 0x0806],
    [LOAD_HALF, 0, 0, 20], // ARP: operation
    [JUMP_IF_EQUAL, 0, 3, 1],
    [LOAD_WORD, 0, 0, 38], // ARP: whose hardware address is wanted
    [JUMP_IF_EQUAL, 0, 1, address],
    [RETURN, 0, 0, 1], // one byte of it is enough to know
    [RETURN, 0, 0, 0],
  ];
}

function attach(socket: Fd, instructions: readonly Instruction[]): void {
  const program = new DataView(new ArrayBuffer(8 * instructions.length));
  for (const [index, [code, jt, jf, k]] of instructions.entries()) {
    program.setUint16(8 * index, code, true);
    program.setUint8(8 * index + 2, jt);
    program.setUint8(8 * index + 3, jf);
    program.setUint32(8 * index + 4, k, true);
  }
  const head = new DataView(new ArrayBuffer(16)); // struct sock_fprog: u16 length, pointer
  head.setUint16(0, instructions.length, true);
  head.setBigUint64(8, addressOf(program), true);
  syscall('setsockopt', socket.fd, SOL_SOCKET, SO_ATTACH_FILTER, head, 16);
}

export interface Sleeper {
  /** Index of its link in the namespace we are in. */
  readonly index: number;
  readonly mac: string;
  readonly address: number;
}

export interface Wakeups extends Disposable {
  /** Calls back once, at the first frame for the machine that comes from now on. Disposing forgets it. */
  watch(sleeper: Sleeper, callback: () => void): Disposable;
}

/** Looks only while somebody sleeps: one poll(2) that does not wait, for all of them. */
export function openWakeups(): Wakeups {
  const watched = new Map<Fd, () => void>();
  let timer: NodeJS.Timeout | undefined;
  const forget = (socket: Fd): void => {
    if (!watched.delete(socket)) return;
    socket.close();
    if (watched.size > 0 || timer === undefined) return;
    clearInterval(timer);
    timer = undefined;
  };
  const look = (): void => {
    const sockets = [...watched.keys()];
    const polled = new DataView(new ArrayBuffer(8 * sockets.length)); // struct pollfd: s32, s16 asked, s16 found
    for (const [index, { fd }] of sockets.entries()) {
      polled.setInt32(8 * index, fd, true);
      polled.setInt16(8 * index + 4, POLLIN, true);
    }
    if (trySyscall('poll', polled, sockets.length, 0) <= 0) return;
    for (const [index, socket] of sockets.entries()) {
      // also when the link is gone (POLLERR): whoever waits looks after the machine then
      const callback = polled.getInt16(8 * index + 6, true) === 0 ? undefined : watched.get(socket);
      if (!callback) continue;
      forget(socket);
      callback();
    }
  };
  return {
    watch({ index, mac, address }, callback) {
      // of no protocol until it is bound: nothing comes in before the filter is there
      const socket = ownFd(syscall('socket', AF_PACKET, RAW_NONBLOCK, 0));
      try {
        attach(socket, filterFor(mac, address));
        const name = new DataView(new ArrayBuffer(20)); // struct sockaddr_ll
        name.setUint16(0, AF_PACKET, true);
        name.setUint16(2, EVERY_PROTOCOL, true);
        name.setInt32(4, index, true);
        syscall('bind', socket.fd, name, 20);
      } catch (cause) {
        socket.close();
        throw new CarrelError('machine_lost', 'The wire of the machine is gone', { cause });
      }
      watched.set(socket, callback);
      timer ??= setInterval(look, LOOK_EVERY_MS).unref();
      return { [Symbol.dispose]: () => forget(socket) };
    },
    [Symbol.dispose]() {
      for (const socket of watched.keys()) forget(socket);
    },
  };
}
