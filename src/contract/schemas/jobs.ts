/** Jobs, the API's noun for everything that takes time, and the events that tell of every change. */
import { z } from 'zod';
import { id, line, name, page, time, wait } from './common.ts';

export const jobState = z.enum(['queued', 'running', 'done', 'failed', 'cancelled']);
export type JobState = z.infer<typeof jobState>;

export const job = z.strictObject({
  id,
  kind: z.string(),
  state: jobState,
  parentId: id.nullable(),
  requester: name.nullable(),
  /** The X-Request-Id of the request that asked for it; with an ending of ours if an Idempotency-Key came along. */
  requestId: z.string().nullable(),
  /** Ids of what it works on. */
  resources: z.array(id),
  /** The step that it is at, or ended with. */
  step: z.string().nullable(),
  /** Every step so far, of all attempts, with when it began. */
  steps: z.array(z.strictObject({ name: z.string(), at: time })),
  progress: z.strictObject({ done: z.number(), total: z.number(), what: z.string() }).nullable(),
  attempts: z.int(),
  result: z.unknown(),
  error: z.strictObject({ code: z.string(), message: z.string(), hint: z.string().nullable() }).nullable(),
  children: z.strictObject({ total: z.int(), done: z.int(), failed: z.int() }),
  createdAt: time,
  startedAt: time.nullable(),
  finishedAt: time.nullable(),
});
export type Job = z.infer<typeof job>;

export const jobQuery = page.extend({
  state: jobState.optional(),
  kind: z.string().max(63).optional(),
  /** Children of this job. */
  parent: id.optional(),
});
export const jobWait = z.strictObject({ wait });

export const jobLogLine = z.strictObject({ at: time, line: z.string() });

/** What every 202 answers with: the job, and what it will make. */
export const accepted = z.strictObject({ job, id: id.nullable() });

export const event = z.strictObject({
  seq: z.int(),
  at: time,
  kind: z.string(),
  subject: z.string(),
  actor: name.nullable(),
  payload: z.record(z.string(), z.unknown()),
});
export type Event = z.infer<typeof event>;

export const eventQuery = z.strictObject({
  /** Events after this sequence number; `Last-Event-ID` says the same. */
  after: z.coerce.number().int().min(0).optional(),
  kind: z.string().max(63).optional(),
});

export const health = z.strictObject({
  status: z.enum(['ok', 'degraded']),
  version: line(50),
  startedAt: time,
  database: z.enum(['ok', 'unavailable']),
  isolation: z.enum(['ok', 'unavailable']),
  /** Without them courses, submissions and sandboxed grading still work. */
  machines: z.enum(['ok', 'unavailable']),
  uplink: z.enum(['ok', 'none']),
});
