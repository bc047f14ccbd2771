/** The other end of a vCPU's thread: gives it its order, limits it, and knows why it ended. */
import { CarrelError } from '#base/errors.ts';
import { Kick } from '#kvm/kick.ts';
import type { RunPage } from '#kvm/runpage.ts';
import type { End } from './end.ts';
import { returnThread, takeThread } from './threads.ts';
import type { VcpuOrder, VcpuReport } from './vcpu-run.ts';
import type { FromVcpu } from './vcpu-thread.ts';

/** A thread that has not begun by then never will. */
const startMs = 30_000;
/** A kicked vCPU leaves KVM_RUN in microseconds, or its kernel is stuck. */
const kickedMs = 5000;

/**
 * vCPUs that run now. A process cannot exit while one of its threads is inside KVM_RUN, so whoever calls
 * process.exit, for whatever reason, kicks them all.
 */
const running = new Set<() => void>();
process.on('exit', () => {
  for (const kick of running) kick();
});

export interface ThreadOptions {
  readonly order: Omit<VcpuOrder, 'kick'>;
  readonly page: RunPage;
  /** From the first instruction on. */
  readonly limitMs: number;
  readonly onLine: (line: string) => void;
  /** Stops it. */
  readonly signal: AbortSignal;
}

export interface Ended extends Omit<VcpuReport, 'end'> {
  readonly end: End;
}

const late = (): CarrelError =>
  new CarrelError('internal', `the thread of a vCPU did not begin in ${startMs} ms`);
const stuck = (): CarrelError =>
  new CarrelError('internal', `a vCPU does not stop: KVM did not leave the guest in ${kickedMs} ms`, {
    hint: 'end this process with SIGKILL; the kernel frees the rest',
  });

/** Runs a vCPU in a thread of its own, to whatever end. */
export async function runInThread({ order, page, limitMs, onLine, signal }: ThreadOptions): Promise<Ended> {
  const kick = new Kick();
  const thread = takeThread();
  const { promise, resolve, reject } = Promise.withResolvers<VcpuReport>();
  const timers = [setTimeout(() => reject(late()), startMs)];
  let why: End = { kind: 'stopped' };
  const stop = (end: End): void => {
    why = end;
    kick.stop(page);
    timers.push(setTimeout(() => reject(stuck()), kickedMs));
  };
  const onAbort = (): void => stop({ kind: 'stopped' });
  const onExit = (): void => kick.stop(page);
  const onMessage = (message: FromVcpu): void => {
    if (message.kind === 'line') onLine(message.text);
    else if (message.kind === 'ended') resolve(message.report);
    else {
      clearTimeout(timers[0]);
      timers.push(setTimeout(() => stop({ kind: 'time limit', ms: limitMs }), limitMs));
    }
  };
  running.add(onExit);
  thread.on('message', onMessage).on('error', reject);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    if (signal.aborted) onAbort();
    thread.postMessage({ ...order, kick: kick.buffer } satisfies VcpuOrder);
    const { end, ...rest } = await promise;
    thread.off('message', onMessage).off('error', reject);
    await returnThread(thread);
    return { ...rest, end: end === 'kicked' ? why : end };
  } catch (error) {
    void thread.terminate(); // ends as soon as it can: never, if its kernel is stuck
    throw error;
  } finally {
    running.delete(onExit);
    signal.removeEventListener('abort', onAbort);
    for (const timer of timers) clearTimeout(timer);
  }
}
