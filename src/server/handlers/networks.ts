/** Networks. */
import { CarrelError } from '#base/errors.ts';
import { decodeCursor, pageOf } from '#contract/page.ts';
import type { networkRoutes } from '#contract/routes/networks.ts';
import type { Network } from '#contract/schemas/networks.ts';
import type { Machines } from '#machines/service.ts';
import { type Network as Row, selectNetworks } from '#store/networks.ts';
import type { Db } from '#store/schema.ts';
import type { HandlersFor } from '../handlers.ts';

function viewOf(row: Row, addresses: number): Network {
  return {
    id: row.id,
    name: row.name,
    bridge: row.layout === 'bridge' ? row.bridge : null,
    cidr: row.cidr,
    gateway: row.gateway,
    nat: row.nat,
    dhcp: row.dhcp,
    isolation: row.isolation,
    layout: row.layout,
    addresses,
    createdAt: row.created_at.toISOString(),
  };
}

export function networkHandlers({
  db,
  machines,
}: {
  readonly db: Db;
  readonly machines: () => Promise<Machines>;
}): HandlersFor<typeof networkRoutes> {
  const used = async (): Promise<ReadonlyMap<string, number>> => {
    const counts = await db
      .selectFrom('addresses')
      .select(({ fn }) => ['network_id', fn.countAll<number>().as('count')])
      .groupBy('network_id')
      .execute();
    return new Map(counts.map(({ network_id: id, count }) => [id, count]));
  };

  return {
    async listNetworks({ query: { cursor, limit } }) {
      const after = cursor === undefined ? '' : (decodeCursor(cursor, 1)[0] ?? '');
      const counts = await used();
      const rows = (await selectNetworks(db)).filter(({ name }) => name > after);
      return pageOf(
        rows,
        limit,
        (row) => viewOf(row, counts.get(row.id) ?? 0),
        ({ name }) => [name],
      );
    },
    async createNetwork({ body }, { actor }) {
      return viewOf(await (await machines()).networks.create(actor, body), 0);
    },
    async getNetwork({ params: { network } }) {
      const row = (await selectNetworks(db)).find(({ id, name }) => id === network || name === network);
      if (!row) throw new CarrelError('not_found', `network "${network.slice(0, 80)}" does not exist`);
      return viewOf(row, (await used()).get(row.id) ?? 0);
    },
    async deleteNetwork({ params: { network } }, { actor }) {
      await (await machines()).networks.remove(actor, network);
      return undefined;
    },
  };
}
