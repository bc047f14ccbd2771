/** Health, jobs and events. */
import { CarrelError } from '#base/errors.ts';
import type { systemRoutes } from '#contract/routes/system.ts';
import { openApiText } from '#contract/openapi.ts';
import type { Job } from '#contract/schemas/jobs.ts';
import type { Role } from '#contract/schemas/people.ts';
import { cancelJob } from '#jobs/queue.ts';
import { waitForJob } from '#jobs/wait.ts';
import type { Store } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { selectJob, selectJobLogs } from '#store/jobs.ts';
import { isStaff } from '../auth/access.ts';
import type { Actor } from '#base/actor.ts';
import type { EventFeed } from '../events/feed.ts';
import { eventStream } from '../events/stream.ts';
import { selectKeptRange } from '../events/visible.ts';
import type { HandlersFor } from '../handlers.ts';
import type { Health } from '../health.ts';
import { jsonAnswer } from '../http/answer.ts';
import { getJobView, isConfidential, jobView, selectJobViews, withoutSecrets } from './job-view.ts';
import { decodeNumberCursor, pageOf } from '#contract/page.ts';

/** Lines of a job's log in one answer; the newest are the interesting ones. */
const LOG_LINES = 5000;
const EVENTS_PER_PAGE = 200;

export interface SystemOptions {
  readonly store: Pick<Store, 'db' | 'listen'>;
  readonly feed: EventFeed;
  readonly health: Health;
}

export function systemHandlers({ store, feed, health }: SystemOptions): HandlersFor<typeof systemRoutes> {
  const { db } = store;

  const startOf = async (after: number | undefined, lastEventId: string | undefined): Promise<number> => {
    const said = lastEventId === undefined ? after : Number(lastEventId);
    const { first, last } = await selectKeptRange(db);
    if (said === undefined) return last;
    if (!Number.isSafeInteger(said) || said < 0)
      throw new CarrelError('invalid_request', 'Last-Event-ID: not a sequence number');
    if (said < first - 1)
      throw new CarrelError('gone', `events after ${said} have been deleted`, {
        hint: `look at the present state, then follow from ${last}`,
        details: { first, last },
      });
    return said;
  };

  return {
    async getHealth() {
      return health.report();
    },

    async getOpenApi() {
      return jsonAnswer(openApiText());
    },

    async listJobs({ query: { cursor, limit, state, kind, parent } }, { actor }) {
      let rows = selectJobViews(db)
        .orderBy('jobs.seq', 'desc')
        .limit(limit + 1);
      if (!actor.admin) rows = rows.where('jobs.requester', '=', actor.id);
      if (state !== undefined) rows = rows.where('jobs.state', '=', state);
      if (kind !== undefined) rows = rows.where('jobs.kind', '=', kind);
      if (parent !== undefined) rows = rows.where('jobs.parent_id', '=', parent);
      if (cursor !== undefined) rows = rows.where('jobs.seq', '<', decodeNumberCursor(cursor));
      const view = (row: Parameters<typeof jobView>[0]): Job =>
        actor.admin ? jobView(row) : withoutSecrets(jobView(row));
      return pageOf(await rows.execute(), limit, view, (row): [number] => [row.seq]);
    },

    async getJob({ params, query }, { signal, actor, role }) {
      if (query.wait > 0) await waitForJob(store, params.job, { limitMs: query.wait * 1000, signal });
      return show(await getJobView(db, params.job), actor, role);
    },

    async getJobLog({ params }, { actor, role }) {
      const { kind } = await selectJob(db, params.job);
      if (isConfidential(kind) && !actor.admin && !isStaff(role))
        throw new CarrelError('forbidden', 'this log is for the staff of the course');
      const rows = await selectJobLogs(db, params.job, { limit: LOG_LINES });
      return { lines: rows.map(({ at, line }) => ({ at: at.toISOString(), line })) };
    },

    async cancelJob({ params }, { actor, role }) {
      await cancelJob(db, params.job);
      await insertEvent(db, {
        kind: 'job.cancelled',
        subject: params.job,
        ownerId: actor.id,
        actor: actor.id,
      });
      return show(await getJobView(db, params.job), actor, role);
    },

    async listEvents({ query }, { actor, lastEventId, signal }) {
      const after = await startOf(query.after, lastEventId);
      return eventStream({ feed, filter: { actor, kind: query.kind }, after, signal });
    },

    async pollEvents({ query }, { actor, lastEventId }) {
      const after = await startOf(query.after, lastEventId);
      const { events, next } = await feed.read({ actor, kind: query.kind }, after, EVENTS_PER_PAGE);
      return { items: [...events], next: String(next) };
    },
  };
}

function show(job: Job, actor: Actor, role: Role | null): Job {
  return actor.admin || isStaff(role) ? job : withoutSecrets(job);
}
