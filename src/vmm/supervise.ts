/** A thread inside KVM_RUN, from outside: it begins in time, it ends in time, and it holds no process open. */
import type { Worker } from 'node:worker_threads';
import { longestTimerMs } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import type { End } from './end.ts';

/** A thread that has not begun by then never will. Where processors are emulated, loading its modules takes half a minute. */
export const startMs = 120_000;
/** A kicked vCPU leaves KVM_RUN in microseconds, or its kernel is stuck. */
export const kickedMs = 15_000;

/**
 * Threads that run guests now. A process cannot exit while one of its threads is inside KVM_RUN, so whoever calls
 * process.exit, for whatever reason, kicks them all.
 */
const running = new Set<() => void>();
process.on('exit', () => {
  for (const kick of running) kick();
});

export interface Watched<Message, Report> {
  /** Tells the thread to go. */
  readonly begin: () => void;
  /** Makes it leave KVM_RUN for good. */
  readonly kick: () => void;
  /** From the first instruction on. */
  readonly limitMs: number;
  /** Stops it. */
  readonly signal: AbortSignal;
  /** Hears all that the thread says, and hands on when it begins and how it ended. */
  readonly hear: (
    message: Message,
  ) => { readonly kind: 'began' } | { readonly kind: 'ended'; readonly report: Report } | undefined;
}

const late = (): CarrelError =>
  new CarrelError('internal', `the thread of a vCPU did not begin in ${startMs} ms`);
const stuck = (): CarrelError =>
  new CarrelError('internal', `a vCPU does not stop: KVM did not leave the guest in ${kickedMs} ms`, {
    hint: 'end this process with SIGKILL; the kernel frees the rest',
  });

/** Waits for the thread's report. `why`: if it was kicked, for this. Fails if the thread does; it is of no use then. */
export async function supervise<Message, Report>(
  thread: Worker,
  { begin, kick, limitMs, signal, hear }: Watched<Message, Report>,
): Promise<{ readonly report: Report; readonly why: End }> {
  const { promise, resolve, reject } = Promise.withResolvers<Report>();
  const timers = [setTimeout(() => reject(late()), startMs)];
  let why: End = { kind: 'stopped' };
  let hasBegun = false;
  let isKicked = false;
  const expectEnd = (): void => {
    if (hasBegun && isKicked) timers.push(setTimeout(() => reject(stuck()), kickedMs));
  };
  const stop = (end: End): void => {
    why = end;
    kick();
    isKicked = true;
    // one that has not begun yet sees the kick when it does
    expectEnd();
  };
  const onAbort = (): void => stop({ kind: 'stopped' });
  const onMessage = (message: Message): void => {
    const heard = hear(message);
    if (heard?.kind === 'ended') resolve(heard.report);
    else if (heard?.kind === 'began') {
      clearTimeout(timers[0]);
      hasBegun = true;
      expectEnd();
      timers.push(
        setTimeout(() => stop({ kind: 'time limit', ms: limitMs }), Math.min(limitMs, longestTimerMs)),
      );
    }
  };
  running.add(kick);
  thread.on('message', onMessage).on('error', reject);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    if (signal.aborted) onAbort();
    begin();
    return { report: await promise, why };
  } finally {
    thread.off('message', onMessage).off('error', reject);
    running.delete(kick);
    signal.removeEventListener('abort', onAbort);
    for (const timer of timers) clearTimeout(timer);
  }
}
