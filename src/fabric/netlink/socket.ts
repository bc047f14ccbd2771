/**
 * One netlink socket: requests with sequence numbers, acknowledgements, dumps.
 *
 * The kernel does the work inside write(2) and has queued the answer when that returns. Most requests take some
 * microseconds, but all of them wait for one lock, and ending an interface holds it for 10 ms and more: so the
 * write is done on libuv's thread pool, one at a time per socket, and the event loop goes on.
 * The socket belongs to the network namespace its thread was in when it was made (see `inNetns`).
 */
import { write as writeCallback } from 'node:fs';
import { promisify } from 'node:util';
import { CarrelError } from '#base/errors.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { errnoName, syscall, syscallError, trySyscall } from '#host/syscalls.ts';
import { type Message, decodeAttributes, decodeMessages, encodeMessage, readText } from './codec.ts';
import { ackAttributes, flags, messageTypes } from './constants.ts';

const write = promisify(writeCallback);

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
const MSG_DONTWAIT = 0x40;
const MSG_TRUNC = 0x20;
/** The kernel fills dump datagrams up to 32 KiB (netlink(7)). */
const RECEIVE_BYTES = 65536;

/** One message of a transaction. */
export interface BatchMessage {
  readonly type: number;
  readonly flags: number;
  readonly body: Uint8Array;
}

export interface NetlinkSocket extends Disposable {
  /**
   * Sends one request and waits for its acknowledgement. On refusal throws an error whose
   * `details.errno` is the kernel's, naming `object`; errnos listed in `accept` are returned instead.
   */
  request(
    type: number,
    body: Uint8Array,
    options: { object: string; flags?: number; accept?: readonly string[] },
  ): Promise<string | undefined>;
  /** Asks for one object: the body of the answer, or undefined when the errno is in `absent`. */
  get(
    type: number,
    body: Uint8Array,
    options: { object: string; absent: readonly string[] },
  ): Promise<Uint8Array | undefined>;
  /** Sends messages in one datagram; each one whose flags ask for it is acknowledged. Throws the first refusal. */
  batch(messages: readonly BatchMessage[], object: string): Promise<void>;
  /** Sends a dump request and returns the body of every answer. */
  dump(type: number, body: Uint8Array, object: string): Promise<Uint8Array[]>;
  /** Closes it when the requests under way are done. */
  close(): void;
}

/** The errno name (undefined for 0) and the kernel's explanation in an NLMSG_ERROR message. */
export function parseAck(message: Message): { errno: string | undefined; explanation: string | undefined } {
  const { body } = message;
  if (body.length < 20) throw new CarrelError('internal', 'malformed netlink acknowledgement');
  const error = new DataView(body.buffer, body.byteOffset).getInt32(0, true);
  // struct nlmsgerr: int error, then the header of our own request (capped), then attributes
  const explanation = readText(decodeAttributes(body.subarray(20)).get(ackAttributes.message));
  return { errno: error === 0 ? undefined : errnoName(error), explanation };
}

function refused(object: string, errno: string, explanation?: string): CarrelError {
  return new CarrelError('internal', `${object}: ${errno}${explanation ? ` (${explanation})` : ''}`, {
    details: { call: 'netlink', errno, object },
  });
}

/** Opens a netlink socket in the calling thread's network namespace. */
export function openNetlink(protocol: number): NetlinkSocket {
  const socket: Fd = ownFd(syscall('socket', AF_NETLINK, SOCK_RAW_CLOEXEC, protocol));
  const on = Int32Array.of(1);
  for (const option of [NETLINK_CAP_ACK, NETLINK_EXT_ACK])
    syscall('setsockopt', socket.fd, SOL_NETLINK, option, on, 4);
  const received = Buffer.allocUnsafeSlow(RECEIVE_BYTES);
  let sequence = 0;
  let last: Promise<unknown> = Promise.resolve();
  let pending = 0;

  /** Runs `work` after all that was asked before. */
  const inTurn = async <T>(work: () => Promise<T>): Promise<T> => {
    pending += 1;
    const mine = last.then(work);
    last = mine.catch(() => undefined);
    try {
      return await mine;
    } finally {
      pending -= 1;
    }
  };
  const close = (): void => {
    // not while a thread may be about to write: the number could be another file's by then
    if (pending === 0) socket.close();
    else last = last.then(() => socket.close());
  };
  /** An unconnected netlink socket sends to the kernel: netlink(7). */
  const send = async (messages: readonly BatchMessage[]): Promise<void> => {
    sequence = (sequence % 0x7fffffff) + 1;
    const datagram = messages.map(({ type, flags: bits, body }) =>
      encodeMessage({ type, flags: bits | flags.request, sequence, body }),
    );
    await write(socket.fd, Buffer.concat(datagram));
  };
  const receive = (object: string): Message[] => {
    const length = trySyscall(
      'recvfrom',
      socket.fd,
      received,
      received.length,
      MSG_DONTWAIT | MSG_TRUNC,
      null,
      null,
    );
    if (length < 0) throw syscallError('recvfrom', length, `netlink, ${object}`);
    if (length > received.length)
      throw new CarrelError('internal', `netlink answer of ${length} bytes, ${object}`);
    // answers of an earlier request that was given up are dropped by their sequence number
    return decodeMessages(Uint8Array.from(received.subarray(0, length))).filter(
      (m) => m.sequence === sequence,
    );
  };

  return {
    request: async (type, body, { object, flags: more = 0, accept = [] }) =>
      await inTurn(async () => {
        await send([{ type, flags: flags.ack | more, body }]);
        for (;;)
          for (const message of receive(object)) {
            if (message.type !== messageTypes.error) continue;
            const { errno, explanation } = parseAck(message);
            if (errno === undefined || accept.includes(errno)) return errno;
            throw refused(object, errno, explanation);
          }
      }),
    get: async (type, body, { object, absent }) =>
      await inTurn(async () => {
        await send([{ type, flags: 0, body }]); // no acknowledgement: the answer, or the error, is all that comes
        for (;;)
          for (const message of receive(object)) {
            if (message.type !== messageTypes.error) return message.body;
            const { errno = 'no answer', explanation } = parseAck(message);
            if (absent.includes(errno)) return undefined;
            throw refused(object, errno, explanation);
          }
      }),
    batch: async (messages, object) =>
      await inTurn(async () => {
        await send(messages);
        let missing = messages.filter(({ flags: bits }) => (bits & flags.ack) !== 0).length;
        while (missing > 0)
          for (const message of receive(object)) {
            if (message.type !== messageTypes.error) continue;
            missing -= 1;
            const { errno, explanation } = parseAck(message);
            if (errno !== undefined) throw refused(object, errno, explanation);
          }
      }),
    dump: async (type, body, object) =>
      await inTurn(async () => {
        for (let attempt = 0; attempt < 5; attempt += 1) {
          await send([{ type, flags: flags.dump, body }]);
          const bodies = collectDump(() => receive(object), object);
          if (bodies) return bodies;
        }
        throw new CarrelError('unavailable', `${object}: the list kept changing while it was read`);
      }),
    close,
    [Symbol.dispose]: close,
  };
}

/** All parts of a dump, or undefined if it changed under us and must be asked for again. */
function collectDump(receive: () => Message[], object: string): Uint8Array[] | undefined {
  const bodies: Uint8Array[] = [];
  let interrupted = false;
  for (;;)
    for (const message of receive()) {
      if ((message.flags & flags.dumpInterrupted) !== 0) interrupted = true;
      if (message.type === messageTypes.done) return interrupted ? undefined : bodies;
      if (message.type === messageTypes.error) throw refused(object, parseAck(message).errno ?? 'no errno');
      bodies.push(message.body);
    }
}
