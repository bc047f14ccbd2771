/** The machine that a student opens for a lab, and those of labs that wait for students. */
import { z } from 'zod';
import type { Actor, RequestInfo } from '#base/actor.ts';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import type { OpenLabMachine } from '#contract/schemas/labs.ts';
import { newMachine } from '#contract/schemas/machines.ts';
import { labDriver } from '#grading/format/machine.ts';
import type { Accepted } from '#machines/requests.ts';
import type { Machines } from '#machines/service.ts';
import type { Pool } from '#machines/templates/pools.ts';
import { selectLab } from '#store/labs.ts';
import type { Db } from '#store/schema.ts';
import { folderOf, type LabServices } from './labs.ts';

/** What the row of a version keeps of the lab's machine (`summaryOf`); versions from before have none. */
const kept = z.object({
  run: z.enum(['sandbox', 'machine']),
  image: z.string(),
  machine: z
    .object({
      driver: labDriver,
      limits: z.object({ cpus: z.number().optional(), memoryBytes: z.number().optional() }),
      ready: z.int(),
    })
    .optional(),
});

/** The machines of released labs that shall wait. */
export async function labPools(db: Db): Promise<Pool[]> {
  const rows = await db
    .selectFrom('labs')
    .innerJoin('lab_versions', (join) =>
      join.onRef('lab_versions.lab_id', '=', 'labs.id').onRef('lab_versions.version', '=', 'labs.version'),
    )
    .select(['labs.ready', 'lab_versions.spec'])
    .where('labs.released_at', 'is not', null)
    .execute();
  return rows.flatMap(({ ready, spec }) => {
    const { run, image, machine } = kept.parse(spec);
    if (run !== 'machine' || machine?.driver !== 'qemu') return [];
    return [{ image, limits: machine.limits, ready: ready ?? machine.ready }];
  });
}

async function ownMachine(db: Db, actor: Actor, labId: string): Promise<string | undefined> {
  const row = await db
    .selectFrom('machines')
    .select('id')
    .where('lab_id', '=', labId)
    .where('owner_id', '=', actor.id)
    .where('submission_id', 'is', null)
    .where('deleted_at', 'is', null)
    .orderBy('created_at')
    .executeTakeFirst();
  return row?.id;
}

/**
 * The actor's own machine for a lab: the one he has, started if it is off, or a new one as the lab describes it. It is
 * his; the staff of the course see it.
 */
export async function openLabMachine(
  services: LabServices,
  machines: Pick<Machines, 'create' | 'start' | 'present'>,
  actor: Actor,
  labId: string,
  { name, sshKeys }: OpenLabMachine,
  { requestId }: RequestInfo = {},
): Promise<Accepted> {
  const row = await selectLab(services.db, labId);
  const own = await ownMachine(services.db, actor, labId);
  const { image, machine } = (await folderOf(services, row)).folder.lab;
  const { driver, limits } = machine;
  // a start of one for guests would run the last one again
  const openAgain = driver === 'micro' ? machines.present : machines.start;
  if (own !== undefined) return openAgain(actor, own, { requestId });
  const wanted = newMachine.parse({ name: name ?? row.name, image, driver, limits, sshKeys });
  try {
    return await machines.create(actor, wanted, { labId, courseId: row.course_id, requestId });
  } catch (error) {
    if (!isCarrelError(error, 'name_taken')) throw error;
    // asked for twice at the same time: it is the other one's
    const made = await ownMachine(services.db, actor, labId);
    if (made !== undefined) return openAgain(actor, made, { requestId });
    throw new CarrelError(
      'name_taken',
      `you have a machine named ${wanted.name} already, which is not this lab’s`,
      {
        hint: 'give this one another name',
        cause: error,
      },
    );
  }
}
