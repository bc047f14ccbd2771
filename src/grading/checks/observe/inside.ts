/**
 * A thread that enters the network or UTS namespace of a process (setns(2) holds for one thread only), looks,
 * answers, and ends. Only our own code runs, and only those namespaces are entered: never the process's root,
 * so no program, library or file of the machine takes part.
 */
import { randomBytes } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { z } from 'zod';
import { ownFd } from '#host/fds.ts';
import { openProcess } from '#host/processes.ts';
import { errnoName, syscall, syscallErrno, trySyscall } from '#host/syscalls.ts';
import { encodeEcho, isEchoReply } from './icmp.ts';

const CLONE_NEWUTS = 0x04000000;
const CLONE_NEWNET = 0x40000000;
const AF_INET = 2;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const IPPROTO_ICMP = 1;
const SOL_SOCKET = 1;
const SO_DONTROUTE = 5;
const MSG_DONTWAIT = 0x40;
const POLLIN = 1;
const tries = 5;
const waitMs = 400;

const process_ = z.strictObject({ pid: z.int(), startTime: z.string() });
/** What to look at. */
export const question = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('hostname'), process: process_ }),
  z.strictObject({ kind: z.literal('ping'), process: process_, address: z.ipv4() }),
]);
export type Question = z.infer<typeof question>;

export const reply = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('hostname'), hostname: z.string() }),
  z.strictObject({ kind: z.literal('ping'), answered: z.boolean(), errno: z.string().nullable() }),
  z.strictObject({ kind: z.literal('gone') }),
  z.strictObject({ kind: z.literal('fault'), message: z.string() }),
]);
export type Reply = z.infer<typeof reply>;

/** struct utsname: six fields of 65 bytes; the second is the host name. */
function readHostname(): Reply {
  const names = Buffer.alloc(6 * 65);
  syscall('uname', names);
  const field = names.subarray(65, 130);
  return { kind: 'hostname', hostname: field.subarray(0, field.indexOf(0)).toString('utf8') };
}

function socketAddress(address: string): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt16LE(AF_INET, 0);
  bytes.set(address.split('.').map(Number), 4);
  return bytes;
}

/** Waits up to `ms` for the answer among whatever else arrives. */
function awaitReply(socket: number, isOurs: (packet: Buffer) => boolean, ms: number): boolean {
  const end = performance.now() + ms;
  const packet = Buffer.alloc(2048);
  const polled = Buffer.alloc(8);
  for (let left = ms; left > 0; left = end - performance.now()) {
    polled.writeInt32LE(socket, 0);
    polled.writeInt16LE(POLLIN, 4);
    if (trySyscall('poll', polled, 1, Math.ceil(left)) <= 0) continue;
    const length = trySyscall('recvfrom', socket, packet, packet.length, MSG_DONTWAIT, 0, 0);
    if (length > 0 && isOurs(packet.subarray(0, length))) return true;
  }
  return false;
}

/** Only directly connected hosts are asked (SO_DONTROUTE): nothing leaves the machine by its default route. */
function ping(address: string): Reply {
  using socket = ownFd(syscall('socket', AF_INET, SOCK_RAW_CLOEXEC, IPPROTO_ICMP));
  syscall('setsockopt', socket.fd, SOL_SOCKET, SO_DONTROUTE, new Uint32Array([1]), 4);
  const id = randomBytes(2).readUInt16BE();
  const payload = randomBytes(32);
  const target = socketAddress(address);
  let errno: string | null = null;
  for (let sequence = 1; sequence <= tries; sequence += 1) {
    const packet = encodeEcho(id, sequence, payload);
    const sent = trySyscall('sendto', socket.fd, packet, packet.length, MSG_DONTWAIT, target, target.length);
    if (sent < 0) errno = errnoName(sent);
    const ours = (answer: Buffer): boolean => isEchoReply(answer, address, id, payload);
    if (awaitReply(socket.fd, ours, waitMs)) return { kind: 'ping', answered: true, errno: null };
  }
  return { kind: 'ping', answered: false, errno };
}

function answer(asked: Question): Reply {
  using target = openProcess(asked.process);
  if (!target) return { kind: 'gone' };
  try {
    syscall('setns', target.fd, asked.kind === 'ping' ? CLONE_NEWNET : CLONE_NEWUTS);
  } catch (error) {
    if (syscallErrno(error) === 'ESRCH') return { kind: 'gone' };
    throw error;
  }
  return asked.kind === 'ping' ? ping(asked.address) : readHostname();
}

/* oxlint-disable unicorn/require-post-message-target-origin -- that is a parameter of windows, not of threads */
if (parentPort) {
  try {
    parentPort.postMessage(answer(question.parse(workerData)));
  } catch (error) {
    parentPort.postMessage({
      kind: 'fault',
      message: error instanceof Error ? error.message : String(error),
    });
  }
}
