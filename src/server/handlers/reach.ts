/** Port forwards, scripts in machines, and the records behind the OS-Cloud routes. */
import { decodeCursor, pageOf } from '#contract/page.ts';
import type { reachRoutes } from '#contract/routes/reach.ts';
import type { Forwards } from '#machines/forwards.ts';
import type { Machines } from '#machines/service.ts';
import type { Db } from '#store/schema.ts';
import type { HandlersFor } from '../handlers.ts';
import { selectOsCloudTables } from '../oscloud/tables.ts';
import { acceptedAnswer } from './job-view.ts';

export interface ReachServices {
  readonly db: Db;
  readonly forwards: Forwards;
  /** `unavailable` while machines are not there. */
  readonly machines: () => Promise<Machines>;
}

export function reachHandlers({ db, forwards, machines }: ReachServices): HandlersFor<typeof reachRoutes> {
  return {
    async listAllForwards({ query: { cursor, limit } }, { actor }) {
      const after = cursor === undefined ? '' : (decodeCursor(cursor, 1)[0] ?? '');
      const rows = await forwards.listVisible(actor, { after, limit: limit + 1 });
      return pageOf(
        rows,
        limit,
        (row) => row,
        (row) => [row.id],
      );
    },
    async listForwards({ params }) {
      return { items: await forwards.list(params.machine), next: null };
    },
    async createForward({ params, body }, { actor }) {
      return forwards.create(actor, params.machine, body);
    },
    async removeForward({ params }) {
      await forwards.remove(params.machine, params.forward);
      return undefined;
    },
    async listScripts({ params }) {
      return { items: await (await machines()).scripts.list(params.machine), next: null };
    },
    async runScript({ params, body }, { actor, requestId }) {
      const { scriptId, job } = await (
        await machines()
      ).scripts.run(actor, params.machine, body, { requestId });
      return acceptedAnswer(db, job.id, scriptId);
    },
    async getScript({ params }) {
      return (await machines()).scripts.get(params.machine, params.script);
    },
    async getOsCloudTables(_input, { actor }) {
      return selectOsCloudTables(db, actor);
    },
  };
}
