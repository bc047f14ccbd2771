/** All operations, wired. The return type demands every one of the contract's: a missing handler does not compile. */
import { isId, type IdKind } from '#base/ids.ts';
import type { Operation } from '#contract/api.ts';
import type { LabFolders } from '#classroom/folders.ts';
import { gradeSubmissionKind, regradeKind } from '#classroom/kinds.ts';
import { getRegrade } from '#classroom/regrades.ts';
import { getSubmission } from '#classroom/submissions.ts';
import type { BlobStore } from '#images/blobs.ts';
import type { Forwards } from '#machines/forwards.ts';
import { scriptKind } from '#machines/scripts.ts';
import type { Machines } from '#machines/service.ts';
import type { Views } from '#machines/list.ts';
import type { Store } from '#store/database.ts';
import type { Actor } from '#base/actor.ts';
import type { Authenticator } from '../auth/authenticate.ts';
import { resourceIds } from '../auth/resources.ts';
import type { EventFeed } from '../events/feed.ts';
import type { Handlers } from '../handlers.ts';
import type { Health } from '../health.ts';
import type { ImageRegistry } from '../images.ts';
import { courseHandlers } from './courses.ts';
import { imageHandlers } from './images.ts';
import { getJobView, withoutSecrets } from './job-view.ts';
import { labHandlers } from './labs.ts';
import { machineHandlers } from './machines.ts';
import { networkHandlers } from './networks.ts';
import { peopleHandlers } from './people.ts';
import { reachHandlers } from './reach.ts';
import { snapshotHandlers } from './snapshots.ts';
import { systemHandlers } from './system.ts';
import { templateHandlers } from './templates.ts';

export interface Services {
  readonly store: Pick<Store, 'db' | 'listen'>;
  readonly feed: EventFeed;
  readonly health: Health;
  readonly registry: ImageRegistry;
  readonly views: Views;
  /** `unavailable` while machines are not there. */
  readonly machines: () => Promise<Machines>;
  readonly forwards: Forwards;
  readonly folders: LabFolders;
  readonly blobs: BlobStore;
}

export function createHandlers(
  { store, feed, health, registry, views, machines, forwards, folders, blobs }: Services,
  authenticator: Authenticator,
): Handlers {
  const { db } = store;
  return {
    ...systemHandlers({ store, feed, health }),
    ...peopleHandlers({ db, authenticator }),
    ...courseHandlers({ db }),
    ...labHandlers({ db, folders, blobs, machines }),
    ...machineHandlers({ db, views, machines }),
    ...snapshotHandlers({ db, machines }),
    ...networkHandlers({ db, machines }),
    ...imageHandlers({ db, registry }),
    ...reachHandlers({ db, forwards, machines }),
    ...templateHandlers({ db, machines }),
  };
}

/** Operations whose answer is their job and one of the things that it is about. */
const acceptedAbout: Partial<Record<Operation, IdKind>> = {
  createMachine: 'machine',
  cloneMachine: 'machine',
  startMachine: 'machine',
  stopMachine: 'machine',
  restartMachine: 'machine',
  pauseMachine: 'machine',
  resumeMachine: 'machine',
  openLabMachine: 'machine',
  createSnapshot: 'snapshot',
  restoreSnapshot: 'machine',
  parkTemplate: 'template',
  buildImage: 'image',
};

/** The answer of a request whose job was made, found by the request id: the daemon or the database died in between. */
export function recoverAnswers({ store: { db }, folders, blobs }: Services) {
  const findJob = (actor: Actor, requestId: string, kind?: string) =>
    db
      .selectFrom('jobs')
      .select(['id', 'args', 'resources'])
      .where('request_id', '=', requestId)
      .where('requester', '=', actor.id)
      .$if(kind !== undefined, (query) => query.where('kind', '=', kind ?? ''))
      .orderBy('seq', 'desc')
      .limit(1)
      .executeTakeFirst();

  return async (operation: Operation, actor: Actor, requestId: string): Promise<unknown> => {
    const about = acceptedAbout[operation];
    if (about !== undefined) {
      const job = await findJob(actor, requestId);
      const id = job && resourceIds(job.resources).find((resource) => isId(about, resource));
      return job && { job: await getJobView(db, job.id), id: id ?? null };
    }
    if (operation === 'runScript') {
      const job = await findJob(actor, requestId, scriptKind.kind);
      return job && { job: await getJobView(db, job.id), id: scriptKind.args.parse(job.args).scriptId };
    }
    if (operation === 'submit') {
      const job = await findJob(actor, requestId, gradeSubmissionKind.kind);
      if (!job) return undefined;
      const { submissionId } = gradeSubmissionKind.args.parse(job.args);
      // the answer of a submission is made at once: it has no grade that could be hidden
      const viewer = { staff: false, now: new Date() };
      const submission = await getSubmission({ db, folders, blobs }, submissionId, viewer);
      return { submission, job: withoutSecrets(await getJobView(db, job.id)) };
    }
    if (operation === 'createRegrade') {
      const job = await findJob(actor, requestId, regradeKind.kind);
      if (!job) return undefined;
      const { regradeId } = regradeKind.args.parse(job.args);
      return { regrade: await getRegrade(db, regradeId), job: await getJobView(db, job.id) };
    }
    return undefined;
  };
}
