/** How many requests a caller may send: a token bucket each, generous, against loops rather than people. */
import { CarrelError } from '#base/errors.ts';

export interface RateOptions {
  /** Requests per second in the long run; Infinity switches the limit off. */
  readonly perSecond?: number;
  /** Requests at once after a pause. */
  readonly burst?: number;
  /** Callers remembered; the least recently seen are forgotten first. */
  readonly callers?: number;
}

interface Bucket {
  left: number;
  at: number;
}

export interface RateLimiter {
  /** Counts one request of `caller`, or throws `quota_exceeded` with the time to wait. */
  take(caller: string, now?: number): void;
}

export function createRateLimiter({
  perSecond = 300,
  burst = 600,
  callers = 10_000,
}: RateOptions = {}): RateLimiter {
  const buckets = new Map<string, Bucket>();
  return {
    take(caller, now = performance.now()) {
      if (perSecond === Number.POSITIVE_INFINITY) return;
      const bucket = buckets.get(caller) ?? { left: burst, at: now };
      bucket.left = Math.min(burst, bucket.left + ((now - bucket.at) / 1000) * perSecond);
      bucket.at = now;
      buckets.delete(caller); // to the end: the map is in order of last use
      buckets.set(caller, bucket);
      if (buckets.size > callers) {
        const oldest = buckets.keys().next();
        if (!oldest.done) buckets.delete(oldest.value);
      }
      if (bucket.left < 1) {
        const seconds = (1 - bucket.left) / perSecond;
        throw new CarrelError('quota_exceeded', `more than ${perSecond} requests per second`, {
          hint: 'slow down, or wait for changes with ?wait= or the event stream instead of asking again and again',
          details: { perSecond, burst, retryAfterSeconds: Math.max(1, Math.ceil(seconds)) },
        });
      }
      bucket.left -= 1;
    },
  };
}
