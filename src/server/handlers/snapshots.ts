/** Snapshots, copies, passwords, and what the console said. */
import type { snapshotRoutes } from '#contract/routes/snapshots.ts';
import type { Machines } from '#machines/service.ts';
import type { Db } from '#store/schema.ts';
import type { HandlersFor } from '../handlers.ts';
import { requireMatch } from '../http/etag.ts';
import { acceptedAnswer } from './job-view.ts';

export function snapshotHandlers({
  db,
  machines,
}: {
  readonly db: Db;
  readonly machines: () => Promise<Machines>;
}): HandlersFor<typeof snapshotRoutes> {
  return {
    async listSnapshots({ params }) {
      return { items: await (await machines()).snapshots(params.machine), next: null };
    },
    async createSnapshot({ params, body }, { actor, requestId }) {
      const service = await machines();
      const { job, snapshotId } = await service.snapshot(actor, params.machine, body.name, { requestId });
      return acceptedAnswer(db, job.id, snapshotId);
    },
    async deleteSnapshot({ params: { machine, snapshot } }, { actor, requestId }) {
      const { job } = await (await machines()).dropSnapshot(actor, machine, snapshot, { requestId });
      return acceptedAnswer(db, job.id, snapshot);
    },
    async restoreSnapshot({ params: { machine, snapshot } }, { actor, requestId, ifMatch }) {
      const allow = (gen: number) => requireMatch(ifMatch, gen, 'the machine');
      const { job } = await (await machines()).restore(actor, machine, snapshot, { requestId, allow });
      return acceptedAnswer(db, job.id, machine);
    },
    async cloneMachine({ params, body }, { actor, requestId }) {
      const { job, machineId } = await (await machines()).clone(actor, params.machine, body, { requestId });
      return acceptedAnswer(db, job.id, machineId);
    },
    async resetPassword({ params }, { actor }) {
      return { user: 'root', password: await (await machines()).resetPassword(actor, params.machine) };
    },
    async getConsoleTranscript({ params, query: { from } }) {
      return (await (await machines()).consoleTranscript(params.machine, { from })).bytes;
    },
  };
}
