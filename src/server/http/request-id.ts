/** Request ids: taken from the caller if harmless, else made here; in every answer, log line and job. */
import { randomBytes } from 'node:crypto';

const harmless = /^[A-Za-z0-9._-]{8,64}$/;

// Random bytes are drawn in blocks: one system call per 64 requests.
let pool = Buffer.alloc(0);
let used = 0;

export function requestIdOf(header: string | undefined): string {
  if (header !== undefined && harmless.test(header)) return header;
  if (used + 12 > pool.length) {
    pool = randomBytes(12 * 64);
    used = 0;
  }
  used += 12;
  return `r${pool.toString('hex', used - 12, used)}`;
}
