/** Copies of machines: another machine with the same disk, and with a name, an address and keys of its own. */
import type { Actor, RequestInfo } from '#base/actor.ts';
import { CarrelError } from '#base/errors.ts';
import type { NewClone } from '#contract/schemas/snapshots.ts';
import { transaction } from '#store/database.ts';
import { selectMachine } from '#store/machines.ts';
import { type Cloud, driverFor } from './cloud.ts';
import { requireCapability } from './driver.ts';
import { requireQuota } from './quota.ts';
import { type Accepted, acceptCreation, insertWhole } from './requests.ts';
import { configOf, driverOf, limitsOf } from './rows.ts';
import { requireReady } from './snapshots.ts';

/**
 * The copy belongs to whoever asks for it, in the course of the original, with its limits, network and keys. The disk
 * is copied later, by the job, under the original's lock.
 */
export async function requestClone(
  cloud: Cloud,
  actor: Actor,
  originalId: string,
  { name, snapshot, start }: NewClone,
  { requestId }: RequestInfo = {},
): Promise<Accepted> {
  const accepted = await transaction(cloud.db, async (tx) => {
    const original = await selectMachine(tx, originalId);
    requireCapability(driverFor(cloud, original), 'clone');
    if (original.activity === 'creating' || original.activity === 'deleting')
      throw new CarrelError('wrong_state', `machine ${original.name} is ${original.activity} right now`, {
        hint: original.activity === 'creating' ? 'wait until that is done' : 'copy another one',
      });
    if (original.network_id === null)
      throw new CarrelError('internal', `machine ${originalId} has lost its network`);
    const limits = limitsOf(original);
    await requireQuota(tx, actor.id, limits);
    const of = snapshot === undefined ? null : (await requireReady(tx, originalId, snapshot)).name;
    const { ephemeral: _, ...config } = configOf(original);
    const row = await insertWhole(tx, {
      name,
      ownerId: actor.id,
      driver: driverOf(original),
      imageId: original.image_id,
      limits,
      labels: original.labels,
      networkId: original.network_id,
      bytesPerSecond: original.bytes_per_second,
      idleFreezeMs: original.idle_freeze_ms,
      config: { ...config, start, source: { machineId: originalId, snapshot: of, copied: false } },
      courseId: original.course_id,
      labId: original.lab_id,
    });
    return acceptCreation(tx, row, actor, { requestId, image: config.image, source: originalId });
  });
  cloud.changed(accepted.machineId);
  return accepted;
}
