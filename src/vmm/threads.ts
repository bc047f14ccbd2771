/**
 * Threads for vCPUs. A few are kept when their guest has ended: starting a thread takes some ten milliseconds, a
 * small guest runs for one.
 */
import { Worker } from 'node:worker_threads';

/** vCPUs of one machine, a thread each; more would only wait for each other. */
export const mostVcpus = 64;

const mostIdle = 4;
const idle: Worker[] = [];

/** A thread for guests, from a file beside this one. */
export function startThread(file = 'vcpu-thread.ts'): Worker {
  const worker = new Worker(new URL(file, import.meta.url), {
    // files of the share are opened by system calls that Node does not know of
    trackUnmanagedFds: false,
    // options of the process (--eval, --inspect-brk) are not meant for it
    execArgv: [],
  });
  // whoever gave it an order listens as well; without one its failure is nobody's
  worker.on('error', () => undefined);
  worker.once('exit', () => {
    const at = idle.indexOf(worker);
    if (at >= 0) idle.splice(at, 1);
  });
  return worker;
}

/** A thread that waits for an order; the process waits for it. */
export function takeThread(): Worker {
  const worker = idle.pop() ?? startThread();
  worker.ref();
  return worker;
}

/** Starts a thread ahead of its order: while a guest is compiled, for one. */
export function prepareThread(): void {
  if (idle.length > 0) return;
  const worker = startThread();
  worker.unref();
  idle.push(worker);
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
