/**
 * What labs want to wait: templates of their images and sizes, and copies of them. A lab that changes wants another
 * template; one that is not there any more wants none. The wish is somebody else's, and looked at anew each time: so
 * nothing has to be told here when it changes.
 */
import { isCarrelError, messageOf } from '#base/errors.ts';
import { limits as limitsSchema } from '#contract/schemas/machines.ts';
import { selectTemplates, type Template as Row } from '#store/templates.ts';
import type { Cloud } from '../cloud.ts';
import type { RequireImage } from '../requests.ts';
import { markStale, requestPark } from './requests.ts';
import { templateDriver } from './rows.ts';

/** Of one lab. */
export interface Pool {
  /** A disk, by name. */
  readonly image: string;
  readonly limits: { readonly cpus?: number | undefined; readonly memoryBytes?: number | undefined };
  /** How many copies shall wait; with 0 there is a template all the same. */
  readonly ready: number;
}

interface Wish {
  readonly image: string;
  readonly limits: { readonly cpus: number; readonly memoryBytes: number };
  ready: number;
}

/** Labs of one image and size share a template. An image that is not there has none: it was said to who released the lab. */
async function wishes(
  cloud: Cloud,
  requireImage: RequireImage,
  pools: readonly Pool[],
): Promise<Map<string, Wish>> {
  const wanted = new Map<string, Wish>();
  for (const { image: name, limits: some, ready } of pools) {
    const limits = limitsSchema.parse(some);
    const image = await requireImage(name, { kind: 'disk' }).catch((error: unknown) => {
      if (isCarrelError(error, 'not_found')) return undefined;
      throw error;
    });
    if (image?.disk?.agent !== true) continue;
    const key = await templateDriver(cloud).keyOf(image.hash, limits);
    const wish = wanted.get(key);
    if (wish) wish.ready += ready;
    else wanted.set(key, { image: name, limits, ready });
  }
  return wanted;
}

/** Makes the rows say what is wanted; the work follows from them. */
export async function keepPools(
  cloud: Cloud,
  requireImage: RequireImage,
  pools: readonly Pool[],
): Promise<void> {
  const rows = (await selectTemplates(cloud.db)).filter(({ key }) => key !== null);
  if (pools.length === 0 && rows.every(({ pool_target: target }) => target === null)) return;
  const wanted = await wishes(cloud, requireImage, pools);
  for (const row of rows) await settle(cloud, row, wanted);
  const known = new Set(rows.map(({ key }) => key));
  for (const [key, { image, limits, ready }] of wanted)
    if (!known.has(key))
      await requestPark(cloud, requireImage, null, { image, limits }, { kept: false, pool: ready }).catch(
        (error: unknown) =>
          cloud.log.warn('the machines of a lab have no template', { image, error: messageOf(error) }),
      );
}

async function settle(cloud: Cloud, row: Row, wanted: ReadonlyMap<string, Wish>): Promise<void> {
  const target = wanted.get(row.key ?? '')?.ready ?? null;
  if (target === row.pool_target) return;
  // nobody wants it any more; what machines need of it they hold themselves
  if (target === null && !row.kept) return markStale(cloud.db, row.id);
  await cloud.db.updateTable('vm_templates').set({ pool_target: target }).where('id', '=', row.id).execute();
}
