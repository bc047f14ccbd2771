/** Doing one thing in another network namespace: setns(2) for this thread, and back, without a process. */
import { closeSync, openSync, readlinkSync } from 'node:fs';
import { errnoOf } from '#base/errors.ts';
import { ownFd } from '#host/fds.ts';
import { syscall, trySyscall } from '#host/syscalls.ts';

const CLONE_NEWNET = 0x40000000;

/** The namespace's name, for example `net:[4026531840]`; undefined when the process is gone. */
export function netnsOf(pid: number | 'self'): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ESRCH') return undefined;
    throw error;
  }
}

const SOL_SOCKET = 1;
const SO_NETNS_COOKIE = 71;

/**
 * A number of the namespace that is never used again while the host runs (its name is): SO_NETNS_COOKIE, since
 * Linux 5.14. undefined where it cannot be known: older kernels, and namespaces that are not ours to enter.
 */
export function netnsCookie(pid: number): string | undefined {
  try {
    return inNetns(pid, () => {
      using socket = ownFd(syscall('socket', 1, 1 | 0o2000000, 0));
      const cookie = new BigUint64Array(1);
      syscall('getsockopt', socket.fd, SOL_SOCKET, SO_NETNS_COOKIE, cookie, Int32Array.of(8));
      return String(cookie[0]);
    });
  } catch {
    return undefined;
  }
}

/**
 * Runs `work` with the calling thread inside the network namespace of process `pid`. `work` must not be
 * asynchronous: only what it does before returning happens there. Sockets it opens stay there.
 */
export function inNetns<T>(pid: number, work: () => T extends Promise<unknown> ? never : T): T {
  using there = ownFd(openSync(`/proc/${pid}/ns/net`, 'r'));
  const home = openSync('/proc/thread-self/ns/net', 'r');
  syscall('setns', there.fd, CLONE_NEWNET);
  try {
    return work();
  } finally {
    // a daemon that goes on in a machine's namespace would be a hole: better none at all
    if (trySyscall('setns', home, CLONE_NEWNET) !== 0) process.abort();
    closeSync(home);
  }
}
