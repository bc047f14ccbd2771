/** eventfd(2): a counter behind a descriptor, for waking whoever polls it: another thread, or the kernel (KVM). */
import { constants } from 'node:os';
import { type Fd, ownFd } from './fds.ts';
import { syscall, syscallError, trySyscall } from './syscalls.ts';

const EFD_CLOEXEC = 0o2000000;
const EFD_NONBLOCK = 0o4000;

export function createEventfd(): Fd {
  return ownFd(syscall('eventfd2', 0, EFD_CLOEXEC | EFD_NONBLOCK));
}

const one = BigUint64Array.of(1n);

/** Adds one. A counter that is full (2^64 - 2) has been heard of anyway. */
export function ring(fd: number): void {
  const result = trySyscall('write', fd, one, 8);
  if (result < 0 && result !== -constants.errno.EAGAIN) throw syscallError('write', result, 'an eventfd');
}

/** Sets it to zero; how often it was rung since the last time. */
export function answer(fd: number): number {
  const count = new BigUint64Array(1);
  const result = trySyscall('read', fd, count, 8);
  if (result === 8) return Number(count[0]);
  if (result === -constants.errno.EAGAIN) return 0;
  throw syscallError('read', result, 'an eventfd');
}
