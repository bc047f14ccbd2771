/** Templates: the door of this folder. */
import type { Actor, RequestInfo } from '#base/actor.ts';
import { messageOf } from '#base/errors.ts';
import type { NewTemplate, Template as View } from '#contract/schemas/templates.ts';
import { cancelJob } from '#jobs/queue.ts';
import type { RunnableJob } from '#jobs/types.ts';
import type { Cloud } from '../cloud.ts';
import type { RequireImage } from '../requests.ts';
import { templateJobs } from './jobs.ts';
import { type ParkAccepted, requestPark, requestRemoval } from './requests.ts';
import { parkKey, templateDriverName, viewTemplates } from './rows.ts';
import { collect, keepTemplates, type UpkeepOptions } from './upkeep.ts';

export interface Templates {
  readonly jobs: readonly RunnableJob[];
  list(): Promise<View[]>;
  park(
    actor: Actor,
    wanted: Required<Pick<NewTemplate, 'image'>> & ParkLimits,
    options?: RequestInfo,
  ): Promise<ParkAccepted>;
  /** Nothing of it is on the host's disk when it returns, but what machines made of it hold themselves. */
  remove(actor: Actor, id: string): Promise<void>;
  /** The daemon's, every few seconds. */
  keep(): Promise<void>;
}

interface ParkLimits {
  readonly limits: { readonly cpus: number; readonly memoryBytes: number };
  readonly ready?: number | undefined;
}

/** How often what changes seldom is looked at. */
const thoroughEveryMs = 60_000;

const defaults: UpkeepOptions = { automatic: true, maxBytes: 8 * 2 ** 30, pools: async () => [] };

export function openTemplates(
  cloud: Cloud,
  requireImage: RequireImage,
  options: Partial<UpkeepOptions> = {},
): Templates {
  const upkeep = { ...defaults, ...options };
  const available = cloud.drivers[templateDriverName]?.templates !== undefined;
  let thoroughAt = Number.NEGATIVE_INFINITY;
  return {
    jobs: available ? templateJobs(cloud) : [],
    list: () => viewTemplates(cloud.db),
    park: (actor, wanted, info) => requestPark(cloud, requireImage, actor, wanted, { ...info, kept: true }),
    async remove(actor, id) {
      await requestRemoval(cloud.db, actor, id);
      const job = await cloud.db
        .selectFrom('jobs')
        .select('id')
        .where('dedupe_key', '=', parkKey(id))
        .where('state', 'in', ['queued', 'running'])
        .executeTakeFirst();
      if (job) await cancelJob(cloud.db, job.id);
      await collect(cloud);
    },
    async keep() {
      if (!available) return;
      const thorough = performance.now() - thoroughAt > thoroughEveryMs;
      try {
        await keepTemplates(cloud, requireImage, upkeep, { thorough });
        if (thorough) thoroughAt = performance.now();
      } catch (error) {
        cloud.log.warn('templates could not be looked after', { error: messageOf(error) });
      }
    },
  };
}
