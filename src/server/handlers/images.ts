/** Images and networks. */
import type { machineRoutes } from '#contract/routes/machines.ts';
import { selectNetworks } from '#store/networks.ts';
import type { Db } from '#store/schema.ts';
import type { HandlersFor } from '../handlers.ts';
import type { ImageRegistry } from '../images.ts';
import { acceptedAnswer } from './job-view.ts';
import { decodeCursor, pageOf } from '#contract/page.ts';

type ImageRoutes = Pick<
  typeof machineRoutes,
  'listImages' | 'buildImage' | 'importImage' | 'getImage' | 'removeImage' | 'listNetworks'
>;

export function imageHandlers({
  db,
  registry,
}: {
  readonly db: Db;
  readonly registry: ImageRegistry;
}): HandlersFor<ImageRoutes> {
  return {
    async listImages({ query: { cursor, limit } }) {
      const after = cursor === undefined ? '' : (decodeCursor(cursor, 1)[0] ?? '');
      const rest = (await registry.list()).filter(({ name }) => name > after);
      return pageOf(
        rest,
        limit,
        (image) => image,
        ({ name }) => [name],
      );
    },
    async buildImage({ body }, { actor, requestId }) {
      const { jobId, id } = await registry.build(actor, body.recipe, requestId);
      return acceptedAnswer(db, jobId, id);
    },
    async importImage({ query, bytes }, { actor, signal }) {
      return registry.import(actor, { ...query, source: bytes, signal });
    },
    async getImage({ params }) {
      return registry.get(params.image);
    },
    async removeImage({ params }, { actor }) {
      await registry.remove(actor, params.image);
      return undefined;
    },
    async listNetworks({ query: { cursor, limit } }) {
      const after = cursor === undefined ? '' : (decodeCursor(cursor, 1)[0] ?? '');
      const counts = await db
        .selectFrom('addresses')
        .select(({ fn }) => ['network_id', fn.countAll<number>().as('count')])
        .groupBy('network_id')
        .execute();
      const used = new Map(counts.map(({ network_id: id, count }) => [id, count]));
      const rows = (await selectNetworks(db)).filter(({ name }) => name > after);
      return pageOf(
        rows,
        limit,
        ({ id, name, bridge, cidr, gateway, nat }) => ({
          id,
          name,
          bridge,
          cidr,
          gateway,
          nat,
          addresses: used.get(id) ?? 0,
        }),
        ({ name }) => [name],
      );
    },
  };
}
