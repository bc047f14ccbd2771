/** A template that is wanted and could not be made is tried again by itself, ever more seldom. */
import { pauseAfter } from '#base/backoff.ts';
import { messageOf } from '#base/errors.ts';
import { isWanted, type Template as Row } from '#store/templates.ts';
import type { Cloud } from '../cloud.ts';
import type { RequireImage } from '../requests.ts';
import { requestPark } from './requests.ts';
import { limitsOfTemplate, parkKey } from './rows.ts';

/** What is missing may be there in a moment; a boot that fails costs a minute of a processor. */
const pauses = { firstMs: 2 * 60_000, longestMs: 6 * 60 * 60_000 } as const;

/** Is it to be tried now? The jobs say how often it has failed, and when last. */
async function isDue({ db }: Pick<Cloud, 'db'>, { id, created_at: made }: Row): Promise<boolean> {
  const { count, last } = await db
    .selectFrom('jobs')
    .select(({ fn }) => [fn.countAll<number>().as('count'), fn.max('ended_at').as('last')])
    .where('dedupe_key', '=', parkKey(id))
    .where('state', '=', 'failed')
    .executeTakeFirstOrThrow();
  return Date.now() - (last ?? made).getTime() >= pauseAfter(count, pauses);
}

/** `keyNow`: of the template that a new machine of that image and size would be copied from. */
export async function retryFailed(
  cloud: Cloud,
  requireImage: RequireImage,
  rows: readonly Row[],
  {
    priority,
    keyNow,
  }: { readonly priority: number; readonly keyNow: (row: Row) => Promise<string | undefined> },
): Promise<void> {
  for (const row of rows) {
    if (row.state !== 'failed' || !isWanted(row) || !(await isDue(cloud, row))) continue;
    // its image is gone, or means something else by now: then that is wanted, and this one is not
    if ((await keyNow(row)) !== row.key) continue;
    const { cpus, memoryBytes } = limitsOfTemplate(row);
    await requestPark(
      cloud,
      requireImage,
      null,
      { image: row.image, limits: { cpus, memoryBytes } },
      { kept: row.kept, priority },
    ).catch((error: unknown) =>
      cloud.log.warn('a template could not be tried again', { image: row.image, error: messageOf(error) }),
    );
  }
}
