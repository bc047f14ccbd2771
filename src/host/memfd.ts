/**
 * Files that live in memory and have no name: memfd_create(2). Sealed, one is memory that others may map and
 * copy on write, and that nobody can change or shorten any more, with whatever rights (fcntl(2), file seals).
 */
import { ftruncateSync } from 'node:fs';
import { type Fd, ownFd } from './fds.ts';
import { cString, syscall } from './syscalls.ts';

/** linux/memfd.h */
const MFD_CLOEXEC = 1;
const MFD_ALLOW_SEALING = 2;
/** linux/fcntl.h */
const F_ADD_SEALS = 1033;
const F_SEAL_SEAL = 1;
const F_SEAL_SHRINK = 2;
const F_SEAL_GROW = 4;
const F_SEAL_WRITE = 8;

/** A file of zeros of this length; it takes memory where something is written. `name` is for people (/proc/PID/fd). */
export function createMemfd(name: string, bytes: number): Fd {
  const memory = ownFd(syscall('memfd_create', cString(name), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  try {
    ftruncateSync(memory.fd, bytes);
    return memory;
  } catch (error) {
    memory.close();
    throw error;
  }
}

/** For good: neither content nor length change any more. EBUSY while somebody has it mapped shared and writable. */
export function sealMemfd({ fd }: Pick<Fd, 'fd'>): void {
  syscall('fcntl', fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
}
