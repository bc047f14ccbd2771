/** One core for one thread. */
import { syscall } from '#host/syscalls.ts';

/** Processors that a mask has room for: a kernel with more answers EINVAL (sched_setaffinity(2)). */
const maskBytes = 1024;

/** This thread stays on the processor it is on now; its number. For threads that end afterwards. */
export function pinThread(): number {
  const cpu = new Uint32Array(1);
  syscall('getcpu', cpu, null, null);
  const [number = 0] = cpu;
  const mask = new Uint8Array(maskBytes);
  mask[number >> 3] = 1 << (number & 7);
  syscall('sched_setaffinity', 0, maskBytes, mask);
  return number;
}
