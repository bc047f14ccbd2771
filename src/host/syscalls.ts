/**
 * System calls by name. The only file that loads the native door (src/native/hostcall.c).
 *
 * Numbers are those of x86-64: arch/x86/entry/syscalls/syscall_64.tbl in the Linux source, or
 * /usr/include/x86_64-linux-gnu/asm/unistd_64.h. Errors carry the kernel's own name (`ENOENT`), not a number.
 *
 * A call blocks the thread it is made on: from the main thread only calls that cannot wait.
 */
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { CarrelError, messageOf } from '#base/errors.ts';

/** What the kernel takes: a number, a bigint, or a view whose address is passed. null is 0. */
export type SyscallArgument = number | bigint | NodeJS.ArrayBufferView | null;

interface Hostcall {
  syscall(nr: number, ...args: SyscallArgument[]): number;
  addressOf(view: NodeJS.ArrayBufferView): bigint;
  timeStamp(): bigint;
  readonly kickSignal: number;
}

/** Name -> number (asm/unistd_64.h). Sorted by number; add what you need. */
export const syscallNumbers = {
  read: 0,
  write: 1,
  close: 3,
  poll: 7,
  lseek: 8,
  mmap: 9,
  munmap: 11,
  ioctl: 16,
  pread64: 17,
  pwrite64: 18,
  socket: 41,
  sendto: 44,
  recvfrom: 45,
  sendmsg: 46,
  recvmsg: 47,
  connect: 42,
  bind: 49,
  listen: 50,
  getsockname: 51,
  socketpair: 53,
  setsockopt: 54,
  getsockopt: 55,
  uname: 63,
  fcntl: 72,
  flock: 73,
  fdatasync: 75,
  fchmod: 91,
  fchown: 93,
  gettid: 186,
  sched_setaffinity: 203,
  clock_gettime: 228,
  tgkill: 234,
  openat: 257,
  mkdirat: 258,
  mknodat: 259,
  unlinkat: 263,
  renameat: 264,
  accept4: 288,
  eventfd2: 290,
  pipe2: 293,
  preadv: 295,
  pwritev: 296,
  getcpu: 309,
  unshare: 272,
  setns: 308,
  memfd_create: 319,
  mount: 165,
  umount2: 166,
  pidfd_send_signal: 424,
  pidfd_open: 434,
  open_tree: 428,
  openat2: 437,
  pidfd_getfd: 438,
  mount_setattr: 442,
} as const;

export type SyscallName = keyof typeof syscallNumbers;

function isHostcall(module: unknown): module is Hostcall {
  return (
    typeof module === 'object' &&
    module !== null &&
    'syscall' in module &&
    typeof module.syscall === 'function' &&
    'addressOf' in module &&
    typeof module.addressOf === 'function' &&
    'timeStamp' in module &&
    typeof module.timeStamp === 'function' &&
    'kickSignal' in module &&
    typeof module.kickSignal === 'number'
  );
}

let loaded: Hostcall | undefined;

/** Loaded at the first call, so that importing this file needs no native build (help, type checks). */
function hostcall(): Hostcall {
  if (loaded) return loaded;
  let module: unknown;
  try {
    module = createRequire(import.meta.url)('../../build/hostcall.node');
  } catch (cause) {
    throw new CarrelError('host_unsupported', `The native part cannot be loaded: ${messageOf(cause)}`, {
      hint: 'build it with: npm run build:native',
      cause,
    });
  }
  if (!isHostcall(module))
    throw new CarrelError('internal', 'build/hostcall.node does not offer what src/host/syscalls.ts expects');
  loaded = module;
  return module;
}

/** Second names for a number: the kernel's own name is the other one. */
const aliases: ReadonlySet<string> = new Set(['EWOULDBLOCK', 'ENOTSUP']);

const errnoNames: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno).flatMap(([name, number]) => (aliases.has(name) ? [] : [[number, name]])),
);

/** `2` -> `ENOENT`; an unknown number keeps its digits. */
export function errnoName(errno: number): string {
  return errnoNames.get(Math.abs(errno)) ?? `errno ${Math.abs(errno)}`;
}

/** The system call's result, or `-errno`. Never throws for what the kernel says. */
export function trySyscall(name: SyscallName, ...args: readonly SyscallArgument[]): number {
  return hostcall().syscall(syscallNumbers[name], ...args);
}

/**
 * A failed system call as an error: `details.errno` is the name. `object` says on what it was tried.
 * ENOSPC and EDQUOT are `disk_full`, so that a full disk is told apart from a broken host.
 */
export function syscallError(call: string, result: number, object?: string): CarrelError {
  const errno = errnoName(result);
  const code = errno === 'ENOSPC' || errno === 'EDQUOT' ? 'disk_full' : 'internal';
  return new CarrelError(code, `${call}${object === undefined ? '' : ` ${object}`}: ${errno}`, {
    details: { call, errno, ...(object === undefined ? {} : { object }) },
  });
}

/** The errno name of an error made here, else undefined. */
export function syscallErrno(error: unknown): string | undefined {
  const errno = error instanceof CarrelError ? error.details?.['errno'] : undefined;
  return typeof errno === 'string' ? errno : undefined;
}

/** The system call's result; throws a CarrelError that names call and errno. */
export function syscall(name: SyscallName, ...args: readonly SyscallArgument[]): number {
  const result = trySyscall(name, ...args);
  if (result < 0) throw syscallError(name, result);
  return result;
}

/** The address of a view's first byte: for structures that hold pointers. Keep the view alive yourself. */
export function addressOf(view: NodeJS.ArrayBufferView): bigint {
  return hostcall().addressOf(view);
}

/** The processor's time-stamp counter (RDTSC). */
export function timeStamp(): bigint {
  return hostcall().timeStamp();
}

/** A signal that interrupts a blocking call and does nothing else (see hostcall.c). */
export function kickSignal(): number {
  return hostcall().kickSignal;
}

/** A NUL-terminated string for the kernel. A NUL inside is refused: it would silently shorten a path. */
export function cString(text: string): Buffer {
  if (text.includes('\0')) throw new CarrelError('invalid_request', 'a path may not contain a NUL character');
  return Buffer.from(`${text}\0`);
}
