/**
 * Threads for vCPUs. A few are kept when their guest has ended: starting a thread takes some ten milliseconds, a
 * small guest runs for one.
 */
import { Worker } from 'node:worker_threads';

const mostIdle = 4;
const idle: Worker[] = [];

/** A thread that waits for an order; the process waits for it. */
export function takeThread(): Worker {
  const kept = idle.pop();
  if (kept) {
    kept.ref();
    return kept;
  }
  const worker = new Worker(new URL('vcpu-thread.ts', import.meta.url), {
    // files of the share are opened by system calls that Node does not know of
    trackUnmanagedFds: false,
    // options of the process (--eval, --inspect-brk) are not meant for it
    execArgv: [],
  });
  worker.once('exit', () => {
    const at = idle.indexOf(worker);
    if (at >= 0) idle.splice(at, 1);
  });
  return worker;
}

/** Gives back a thread whose vCPU has ended in order. It no longer keeps the process alive. */
export async function returnThread(worker: Worker): Promise<void> {
  if (idle.length >= mostIdle) {
    await worker.terminate();
    return;
  }
  worker.unref();
  idle.push(worker);
}
