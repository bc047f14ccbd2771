/**
 * A worker: takes jobs as it has slots, keeps their leases, writes how they ended.
 *
 * Two loops. The main loop, woken by a notification, a free slot or the poll, writes what has ended (all of it in
 * one statement) and takes as many jobs as there are free slots. The heartbeat, once a second, renews all leases in
 * one statement, learns of cancellations and losses, writes notes, and takes back the jobs of dead workers. While no
 * job runs anywhere it rests until one is queued.
 * Any number of workers, in any number of processes and on any number of hosts, share the table.
 */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { sleep, within } from '#base/deadline.ts';
import { CarrelError, messageOf } from '#base/errors.ts';
import { silent, type Logger } from '#base/log.ts';
import { isConnectionLoss, isTransactionConflict } from '#store/errors.ts';
import type { Store } from '#store/database.ts';
import type { Job } from '#store/jobs.ts';
import { createBell } from './bell.ts';
import { endRuns, reapExpired, renewLeases, takeJobs, writeCheckpoint, writeNotes } from './lease.ts';
import type { Lease, Outcome } from './lease.ts';
import { createRun, type Run } from './run.ts';
import { cancelChannel, queuedChannel, type RunnableJob } from './types.ts';

export interface WorkerOptions {
  readonly store: Pick<Store, 'db' | 'listen'>;
  readonly jobs: readonly RunnableJob[];
  /** Jobs at a time. */
  readonly slots?: number;
  /** How long a silent worker is believed in. With the heartbeat, a dead one's jobs run again within 5 s. */
  readonly leaseMs?: number;
  readonly heartbeatMs?: number;
  readonly pollMs?: number;
  readonly log?: Logger;
}

export interface Worker {
  /** `host:pid:random`, as in the rows. */
  readonly owner: string;
  /** Jobs running now. */
  readonly running: number;
  /**
   * Takes no more jobs, tells the running ones to stop (they will be run again elsewhere), or with `abort: false`
   * lets them finish, and waits up to `limitMs`. What still runs then is left to its lease.
   */
  stop(options?: { limitMs?: number; abort?: boolean }): Promise<void>;
}

const abandonAfterLeases = 10;
/** How long the heartbeat rests while no job runs; a queued one ends the rest, this is for a lost notification. */
const restMs = 5000;

interface End {
  readonly lease: Lease;
  readonly outcome: Outcome;
}

/** A lost job can come back to the worker that lost it while the old run is still ending. */
function keyOf({ id, attempt }: Lease): string {
  return `${id} ${attempt}`;
}

/**
 * Starts a worker.
 *
 * @example const worker = createWorker({ store, jobs: [startMachine, gradeSubmission], slots: 4 });
 */
export function createWorker({
  store: { db, listen },
  jobs,
  slots = 4,
  leaseMs = 3000,
  heartbeatMs = 1000,
  pollMs = 1000,
  log = silent,
}: WorkerOptions): Worker {
  const owner = `${hostname()}:${process.pid}:${randomBytes(4).toString('hex')}`;
  const definitions = new Map(jobs.map((job) => [job.kind, job]));
  if (definitions.size < jobs.length) throw new CarrelError('internal', 'two jobs of the same kind');
  const kinds = [...definitions.keys()];
  const runs = new Map<string, Run>();
  let ended: End[] = [];
  const stopping = new AbortController();
  const finished = new AbortController();
  const bell = createBell();
  const alarm = createBell();

  /** Until when the heartbeat goes on: a queued job will be taken by somebody, who may die with it. */
  let watchUntil = performance.now() + 2 * leaseMs;
  let resting = false;
  const keepWatching = (): void => {
    watchUntil = performance.now() + 2 * leaseMs;
    if (resting) alarm.ring();
  };

  /** A database that is away comes back; anything else is a fault of ours. */
  const complain = (message: string, error: unknown): void => {
    const passing = isConnectionLoss(error) || isTransactionConflict(error);
    log[passing ? 'warn' : 'error'](message, { error: messageOf(error) });
  };

  const start = (job: Job): void => {
    const definition = definitions.get(job.kind);
    // takeJobs asks for our kinds only.
    if (!definition) throw new CarrelError('internal', `no handler for ${job.kind}`);
    const run = createRun({
      job,
      definition,
      checkpoint: (lease, data) => writeCheckpoint(db, owner, lease, data),
    });
    runs.set(keyOf(run.lease), run);
    if (job.cancel_requested_at) run.stop('cancelled');
    void run.execute().then((outcome) => {
      ended.push({ lease: run.lease, outcome });
      bell.ring();
    });
  };

  const flushNotes = async (of: Iterable<Run>): Promise<void> => {
    const notes = Array.from(of, (run) => run.takeNotes()).filter((note) => note !== undefined);
    if (notes.length > 0) await writeNotes(db, owner, notes);
  };

  /** Writes the ends; while the database is away they are kept. */
  const flushEnds = async (): Promise<void> => {
    const batch = ended;
    ended = [];
    try {
      await flushNotes(batch.flatMap(({ lease }) => runs.get(keyOf(lease)) ?? []));
      settle(batch, await endRuns(db, owner, batch));
    } catch (error) {
      if (isConnectionLoss(error) || isTransactionConflict(error)) {
        ended = [...batch, ...ended];
        throw error;
      }
      // One of them cannot be stored: it alone shall fail.
      log.error('the outcome of a job could not be stored', { error: messageOf(error) });
      for (const end of batch) settle([end], await endAlone(end));
    }
  };

  const endAlone = async (end: End): Promise<ReadonlySet<string>> => {
    try {
      return await endRuns(db, owner, [end]);
    } catch (error) {
      if (isConnectionLoss(error)) {
        ended.push(end);
        throw error;
      }
      const outcome: Outcome = { state: 'failed', error: { code: 'internal', message: messageOf(error) } };
      return endRuns(db, owner, [{ lease: end.lease, outcome }]);
    }
  };

  const settle = (batch: readonly End[], counted: ReadonlySet<string>): void => {
    for (const { lease, outcome } of batch) {
      runs.delete(keyOf(lease));
      if (!counted.has(lease.id))
        log.warn('a job was taken over; its outcome here does not count', { ...lease });
      else if (outcome.state === 'queued') bell.ringAfter(outcome.delayMs);
    }
  };

  const main = async (): Promise<void> => {
    while (!finished.signal.aborted) {
      try {
        if (ended.length > 0) await flushEnds();
        const free = slots - runs.size;
        if (free > 0 && !stopping.signal.aborted) {
          const taken = await takeJobs(db, { owner, kinds, limit: free, leaseMs });
          for (const job of taken) start(job);
        }
        if (ended.length === 0) await bell.wait(pollMs);
      } catch (error) {
        complain('taking and ending jobs failed', error);
        await sleep(100);
      }
    }
  };

  const heartbeat = async (): Promise<void> => {
    let renewedAt = performance.now();
    while (!finished.signal.aborted) {
      resting = performance.now() > watchUntil;
      await alarm.wait(resting ? Math.max(restMs, heartbeatMs) : heartbeatMs);
      if (finished.signal.aborted) return;
      try {
        const live = [...runs.values()].filter((run) => run.stopped !== 'lost');
        if (live.length === 0) renewedAt = performance.now();
        else {
          const leases = live.map((run) => run.lease);
          const kept = new Map(
            (await renewLeases(db, { owner, leases, leaseMs })).map((row) => [row.id, row.cancelled]),
          );
          for (const run of live) {
            const cancelled = kept.get(run.lease.id);
            if (cancelled === true) run.stop('cancelled');
            // A run that has just ended is no longer leased, and not lost.
            else if (cancelled === undefined && runs.has(keyOf(run.lease))) run.stop('lost');
          }
          renewedAt = performance.now();
          await flushNotes(live);
        }
        if ((await reapExpired(db, { leaseMs })).running || runs.size > 0) keepWatching();
      } catch (error) {
        complain('the heartbeat failed', error);
        // Nobody can take our jobs while the server is down; but if only we cannot reach it, somebody has.
        if (performance.now() - renewedAt > abandonAfterLeases * leaseMs)
          for (const run of runs.values()) run.stop('lost');
      }
    }
  };

  const subscriptions = Promise.all([
    listen(queuedChannel, () => {
      bell.ring();
      keepWatching();
    }),
    listen(cancelChannel, alarm.ring),
  ]);
  // Jobs enqueued before we listened were not announced to us.
  void subscriptions.then(bell.ring);
  const loops = Promise.all([main(), heartbeat()]);

  return {
    owner,
    get running() {
      return runs.size;
    },
    async stop({ limitMs = 10_000, abort = true } = {}) {
      stopping.abort();
      if (abort) for (const run of runs.values()) run.stop('shutdown');
      bell.ring();
      const end = performance.now() + limitMs;
      while (runs.size > 0 && performance.now() < end) await sleep(5);
      finished.abort();
      bell.ring();
      alarm.ring();
      for (const unlisten of await subscriptions) unlisten();
      await within(limitMs + 1000, 'the worker to stop', loops);
    },
  };
}
