/**
 * Keeps one child running: started again when it ends, with a growing pause between attempts.
 *
 *   starting ──> running ──(ends)──> waiting ──> starting ...     stop() leads out of each of them
 */
import { CarrelError, messageOf } from '#base/errors.ts';
import { sleep } from '#base/deadline.ts';
import { type Logger, silent } from '#base/log.ts';
import type { Service } from '#host/launch.ts';

export interface Supervised {
  /** The child, while there is one. */
  readonly current: Service | undefined;
  readonly restarts: number;
  /** Why there is no child, if there is none. */
  readonly reason: string | undefined;
  /** Settles after the first attempt, well or not. */
  readonly attempted: Promise<void>;
  /** Rejects when it gives up; resolves after stop(). */
  readonly ended: Promise<void>;
  /** No more restarts; ends the child with `end`. */
  stop(end: (service: Service) => Promise<unknown>): Promise<void>;
}

export function supervise({
  name,
  start,
  firstMs = 100,
  maxMs = 5000,
  steadyMs = 10_000,
  giveUpAfter = Number.POSITIVE_INFINITY,
  worked = () => false,
  log = silent,
}: {
  name: string;
  start: () => Promise<Service>;
  /** Pause after the first death; doubled each time up to `maxMs`. */
  firstMs?: number;
  maxMs?: number;
  /** A child that ran this long begins with a small pause again. */
  steadyMs?: number;
  /** This many deaths in a row, none of them after `steadyMs`, end it for good. */
  giveUpAfter?: number;
  /** Did this child do its work before it died? Once one did, it is never given up: what fails now will pass. */
  worked?: (service: Service) => boolean;
  log?: Logger;
}): Supervised {
  const stopping = new AbortController();
  let current: Service | undefined;
  let ending: ((service: Service) => Promise<unknown>) | undefined;
  let restarts = 0;
  let reason: string | undefined = 'not started yet';
  let proven = false;
  const { promise: attempted, resolve: afterFirst } = Promise.withResolvers<void>();

  const runOnce = async (): Promise<void> => {
    try {
      current = await start();
      reason = undefined;
      log.info(`${name} started`, { pid: current.identity.pid });
      afterFirst();
      await ending?.(current); // it was told to stop while it started
      const { status, signal } = await current.exited;
      proven ||= worked(current);
      reason = `${name} ended (${signal ?? `status ${status}`})`;
    } catch (error) {
      reason = messageOf(error);
    } finally {
      current = undefined;
      afterFirst();
    }
  };

  const loop = async (): Promise<void> => {
    let deaths = 0;
    while (!stopping.signal.aborted) {
      const began = performance.now();
      await runOnce();
      if (stopping.signal.aborted) return;
      deaths = performance.now() - began >= steadyMs ? 1 : deaths + 1;
      if (deaths >= giveUpAfter && !proven)
        throw new CarrelError('unavailable', `${name} ended ${deaths} times in a row: ${reason}`);
      const pause = Math.min(maxMs, firstMs * 2 ** (deaths - 1));
      log.warn(`${name} is started again`, { reason, pause });
      try {
        await sleep(pause, stopping.signal);
      } catch {
        return;
      }
      restarts += 1;
    }
  };

  const ended = loop();
  ended.catch(() => undefined); // whoever waits for `ended` hears of it
  return {
    get current() {
      return current;
    },
    get restarts() {
      return restarts;
    },
    get reason() {
      return reason;
    },
    attempted,
    ended,
    async stop(end) {
      ending = end;
      stopping.abort();
      if (current) await end(current);
      await ended.catch(() => undefined);
    },
  };
}
