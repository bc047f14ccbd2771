/**
 * File descriptors as values with an owner: `using end = ...` closes at the end of the block.
 * Passing them between processes is SCM_RIGHTS over a unix socket (unix(7), cmsg(3)).
 */
import { closeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { constants } from 'node:os';
import { CarrelError } from '#base/errors.ts';
import { addressOf, syscall, syscallError, trySyscall } from './syscalls.ts';

/** An open descriptor that belongs to whoever holds this. */
export interface Fd extends Disposable {
  readonly fd: number;
  readonly open: boolean;
  /** Closes it; a second call does nothing. */
  close(): void;
  /** Gives it away: the caller now closes the number itself (or hands it to Node, which does). */
  release(): number;
}

/** Takes ownership of an open descriptor. */
export function ownFd(fd: number): Fd {
  let open = true;
  const close = (): void => {
    if (!open) return;
    open = false;
    closeSync(fd);
  };
  return {
    fd,
    get open() {
      return open;
    },
    close,
    release() {
      if (!open) throw new CarrelError('internal', `descriptor ${fd} is closed already`);
      open = false;
      return fd;
    },
    [Symbol.dispose]: close,
  };
}

const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const SOCK = { stream: 1, datagram: 2, seqpacket: 5 } as const;

function pair(call: (ends: Int32Array) => void): [Fd, Fd] {
  const ends = new Int32Array(2);
  call(ends);
  const [first, second] = ends;
  if (first === undefined || second === undefined)
    throw new CarrelError('internal', 'no descriptors came back');
  return [ownFd(first), ownFd(second)];
}

/** A pipe: [reading end, writing end], close-on-exec. */
export function pipe({ nonBlocking = false }: { nonBlocking?: boolean } = {}): [Fd, Fd] {
  return pair((ends) => syscall('pipe2', ends, O_CLOEXEC | (nonBlocking ? O_NONBLOCK : 0)));
}

/** Two connected unix sockets, close-on-exec. */
export function socketPair({
  type = 'stream',
  nonBlocking = false,
}: { type?: keyof typeof SOCK; nonBlocking?: boolean } = {}): [Fd, Fd] {
  const flags = SOCK[type] | O_CLOEXEC | (nonBlocking ? O_NONBLOCK : 0);
  return pair((ends) => syscall('socketpair', 1, flags, 0, ends));
}

/**
 * The descriptor of a connection of Node's, which keeps owning it. Not official, but the handle has had `fd`
 * since its first version.
 */
export function descriptorOf(socket: Socket): number {
  const handle: unknown = Reflect.get(socket, '_handle');
  const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
  if (typeof fd !== 'number' || fd < 0) throw new CarrelError('internal', 'the connection is closed');
  return fd;
}

const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;
const MSG_CTRUNC = 0x8;
const CMSG_HEADER = 16;
/** The kernel's own limit per message (SCM_MAX_FD, include/net/scm.h). */
const MAX_FDS = 253;

const align8 = (length: number): number => (length + 7) & ~7;

/**
 * struct msghdr with one buffer and room for control data, as the arguments of sendmsg and recvmsg. The three
 * views it points to go along as arguments the kernel does not look at: so they live until the call is over.
 */
function messageCall(
  data: Uint8Array,
  control: Uint8Array,
  flags: number,
): readonly [DataView, number, DataView, Uint8Array, Uint8Array] {
  const vector = new DataView(new ArrayBuffer(16));
  vector.setBigUint64(0, addressOf(data), true);
  vector.setBigUint64(8, BigInt(data.length), true);
  const header = new DataView(new ArrayBuffer(56));
  header.setBigUint64(16, addressOf(vector), true);
  header.setBigUint64(24, 1n, true);
  if (control.length > 0) {
    header.setBigUint64(32, addressOf(control), true);
    header.setBigUint64(40, BigInt(control.length), true);
  }
  return [header, flags, vector, data, control];
}

/**
 * Sends bytes and descriptors in one message, without waiting. Returns the number of bytes taken, or
 * undefined when the socket is full (EAGAIN). The descriptors stay open here too.
 */
export function sendFds(socket: number, data: Uint8Array, fds: readonly number[] = []): number | undefined {
  if (data.length === 0) throw new CarrelError('internal', 'descriptors travel with at least one byte');
  if (fds.length > MAX_FDS) throw new CarrelError('internal', `at most ${MAX_FDS} descriptors per message`);
  const control = new Uint8Array(fds.length === 0 ? 0 : align8(CMSG_HEADER + 4 * fds.length));
  if (fds.length > 0) {
    const view = new DataView(control.buffer);
    view.setBigUint64(0, BigInt(CMSG_HEADER + 4 * fds.length), true);
    view.setInt32(8, SOL_SOCKET, true);
    view.setInt32(12, SCM_RIGHTS, true);
    for (const [index, fd] of fds.entries()) view.setInt32(CMSG_HEADER + 4 * index, fd, true);
  }
  const sent = trySyscall('sendmsg', socket, ...messageCall(data, control, MSG_DONTWAIT | MSG_NOSIGNAL));
  if (sent === -constants.errno.EAGAIN) return undefined;
  if (sent < 0) throw syscallError('sendmsg', sent);
  return sent;
}

export interface Received {
  /** Empty at end of file. */
  readonly data: Buffer;
  readonly fds: readonly Fd[];
}

/**
 * Takes one message without waiting; undefined when there is none (EAGAIN). Received descriptors are
 * close-on-exec and belong to the caller. More than `maxFds` is an error, and all of them are closed.
 */
export function receiveFds(
  socket: number,
  { maxBytes = 65536, maxFds = 16 }: { maxBytes?: number; maxFds?: number } = {},
): Received | undefined {
  const data = Buffer.allocUnsafeSlow(maxBytes);
  const control = new Uint8Array(align8(CMSG_HEADER + 4 * maxFds));
  const call = messageCall(data, control, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  const [header] = call;
  const length = trySyscall('recvmsg', socket, ...call);
  if (length === -constants.errno.EAGAIN) return undefined;
  if (length < 0) throw syscallError('recvmsg', length);
  const fds = readControl(control.subarray(0, Number(header.getBigUint64(40, true)))).map(ownFd);
  if ((header.getInt32(48, true) & MSG_CTRUNC) !== 0) {
    for (const fd of fds) fd.close();
    throw new CarrelError('invalid_request', `more than ${maxFds} descriptors in one message`);
  }
  return { data: data.subarray(0, length), fds };
}

/** The descriptors in a control buffer filled by the kernel. */
function readControl(control: Uint8Array): number[] {
  const view = new DataView(control.buffer, control.byteOffset, control.byteLength);
  const fds: number[] = [];
  for (let at = 0; at + CMSG_HEADER <= control.length;) {
    const length = Number(view.getBigUint64(at, true));
    if (length < CMSG_HEADER) break;
    if (view.getInt32(at + 8, true) === SOL_SOCKET && view.getInt32(at + 12, true) === SCM_RIGHTS)
      for (let fd = at + CMSG_HEADER; fd + 4 <= Math.min(at + length, control.length); fd += 4)
        fds.push(view.getInt32(fd, true));
    at += align8(length);
  }
  return fds;
}
