/** All operations, wired. The return type demands every one of the contract's: a missing handler does not compile. */
import type { Operation } from '#contract/api.ts';
import type { LabFolders } from '#classroom/folders.ts';
import type { BlobStore } from '#images/blobs.ts';
import type { Machines } from '#machines/service.ts';
import type { Views } from '#machines/list.ts';
import type { Store } from '#store/database.ts';
import type { Actor } from '../auth/actor.ts';
import type { Authenticator } from '../auth/authenticate.ts';
import { resourceIds } from '../auth/resources.ts';
import type { EventFeed } from '../events/feed.ts';
import type { Handlers } from '../handlers.ts';
import type { Health } from '../health.ts';
import type { ImageRegistry } from '../images.ts';
import { courseHandlers } from './courses.ts';
import { imageHandlers } from './images.ts';
import { getJobView } from './job-view.ts';
import { labHandlers } from './labs.ts';
import { machineHandlers } from './machines.ts';
import { peopleHandlers } from './people.ts';
import { systemHandlers } from './system.ts';

export interface Services {
  readonly store: Pick<Store, 'db' | 'listen'>;
  readonly feed: EventFeed;
  readonly health: Health;
  readonly registry: ImageRegistry;
  readonly views: Views;
  /** `unavailable` while machines are not there. */
  readonly machines: () => Promise<Machines>;
  readonly folders: LabFolders;
  readonly blobs: BlobStore;
}

export function createHandlers(
  { store, feed, health, registry, views, machines, folders, blobs }: Services,
  authenticator: Authenticator,
): Handlers {
  const { db } = store;
  return {
    ...systemHandlers({ store, feed, health }),
    ...peopleHandlers({ db, authenticator }),
    ...courseHandlers({ db }),
    ...labHandlers({ db, folders, blobs }),
    ...machineHandlers({ db, views, machines }),
    ...imageHandlers({ db, registry }),
  };
}

/** Operations that answer with nothing but the job and the id of what it works on. */
const acceptedOperations: ReadonlySet<Operation> = new Set(['createMachine', 'buildImage']);

/** The answer of a request whose daemon died after the work: its job is found by the request id. */
export function recoverAnswers({ store: { db } }: Pick<Services, 'store'>) {
  return async (operation: Operation, actor: Actor, requestId: string): Promise<unknown> => {
    if (!acceptedOperations.has(operation)) return undefined;
    const job = await db
      .selectFrom('jobs')
      .select(['id', 'resources'])
      .where('request_id', '=', requestId)
      .where('requester', '=', actor.id)
      .executeTakeFirst();
    return job && { job: await getJobView(db, job.id), id: resourceIds(job.resources)[0] ?? null };
  };
}
