/** How long this thread has had a processor: what other work on the host takes away is not in it. */
import { syscall } from './syscalls.ts';

const CLOCK_THREAD_CPUTIME_ID = 3;
const timespec = new BigInt64Array(2);

/**
 * CPU time of this thread, in milliseconds; time in a guest that it runs is part of it. clock_gettime(2): what
 * getrusage(2) says grows with the kernel's ticks only.
 */
export function threadCpuMs(): number {
  syscall('clock_gettime', CLOCK_THREAD_CPUTIME_ID, timespec);
  return Number(timespec[0]) * 1000 + Number(timespec[1]) / 1e6;
}
