/** Waiting for jobs, and reading lists to their end. */
import { CarrelError } from '#base/errors.ts';
import { errorCodes, type ErrorCode } from '#base/errors.ts';
import type { Client } from '#contract/client.ts';
import type { Job } from '#contract/schemas/jobs.ts';
import type { Output } from './ui/output.ts';

/** All items of a list that is served in pages. */
export async function all<T>(
  fetchPage: (page: {
    cursor?: string;
    limit: number;
  }) => Promise<{ items: readonly T[]; next: string | null }>,
): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | undefined;
  do {
    const page = await fetchPage({ limit: 500, ...(cursor !== undefined && { cursor }) });
    items.push(...page.items);
    cursor = page.next ?? undefined;
  } while (cursor !== undefined);
  return items;
}

/** What a job is at, in a few words. */
export function describeJob(job: Job): string {
  const step = job.progress?.what ?? job.step;
  return step === null || step === '' ? `${job.kind}: ${job.state}` : `${job.kind}: ${step}`;
}

export const ended = (job: Job): boolean =>
  job.state === 'done' || job.state === 'failed' || job.state === 'cancelled';

function isCode(code: string): code is ErrorCode {
  return code in errorCodes;
}

/** A job that did not end well, as an error. */
export function jobError(job: Job): CarrelError {
  if (job.state === 'cancelled')
    return new CarrelError('cancelled', `job ${job.id} (${job.kind}) was cancelled`);
  const { code = 'internal', message = 'failed without a reason', hint = null } = job.error ?? {};
  return new CarrelError(isCode(code) ? code : 'internal', message, {
    hint: hint ?? `see: carrel job log ${job.id}`,
    details: { job: job.id },
  });
}

/**
 * Waits until the job has ended, with its progress on the screen. Throws if it failed, and
 * `deadline_exceeded` after `limitMs`; the job goes on then.
 */
export async function waitForJob(
  client: Client,
  out: Output,
  id: string,
  { limitMs = 3_600_000, signal }: { limitMs?: number; signal?: AbortSignal } = {},
): Promise<Job> {
  using progress = out.progress();
  const end = performance.now() + limitMs;
  for (let wait = 1; ; wait = 2) {
    const job = await client.getJob({ params: { job: id }, query: { wait } }, signal && { signal });
    if (job.state === 'done') return job;
    if (ended(job)) throw jobError(job);
    progress.update(describeJob(job), job.progress?.done, job.progress?.total);
    if (performance.now() > end)
      throw new CarrelError('deadline_exceeded', `job ${id} has not ended`, {
        hint: `carrel job wait ${id}`,
      });
  }
}
