import { z } from 'zod';
import { listOf } from '../schemas/common.ts';
import { event, eventQuery, health, job, jobLogLine, jobQuery, jobWait } from '../schemas/jobs.ts';
import type { Route } from '../route.ts';

/** The cloud itself: health, jobs, events. */
export const systemRoutes = {
  getHealth: {
    method: 'GET',
    path: '/v1/health',
    doc: 'Is the cloud well?',
    access: 'public',
    reply: health,
  },
  getOpenApi: {
    method: 'GET',
    path: '/openapi.json',
    doc: 'This API as an OpenAPI 3.1 document',
    access: 'public',
    reply: z.looseObject({ openapi: z.string() }),
  },
  listJobs: {
    method: 'GET',
    path: '/v1/jobs',
    doc: 'List your jobs, newest first; administrators see all',
    access: 'user',
    query: jobQuery,
    reply: listOf(job),
  },
  getJob: {
    method: 'GET',
    path: '/v1/jobs/{job}',
    doc: 'One job; with ?wait= the answer comes when it has ended or the time is over',
    access: 'job:read',
    query: jobWait,
    reply: job,
  },
  getJobLog: {
    method: 'GET',
    path: '/v1/jobs/{job}/log',
    doc: 'What a job said',
    access: 'job:read',
    reply: z.strictObject({ lines: z.array(jobLogLine) }),
  },
  cancelJob: {
    method: 'POST',
    path: '/v1/jobs/{job}/cancel',
    doc: 'Ask a job to end',
    access: 'job:read',
    reply: job,
  },
  listEvents: {
    method: 'GET',
    path: '/v1/events',
    doc: 'Events as server-sent events, from a sequence number on (Last-Event-ID); 410 if it is too old',
    access: 'user',
    query: eventQuery,
    replyBytes: 'text/event-stream',
  },
  pollEvents: {
    method: 'GET',
    path: '/v1/events/list',
    doc: 'The events after a sequence number, as a list',
    access: 'user',
    query: eventQuery,
    reply: listOf(event),
  },
} as const satisfies Record<string, Route>;
