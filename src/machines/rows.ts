/** A machine's row as the rest of this folder uses it, and the one way to change it. */
import { sql, type Updateable } from 'kysely';
import { z } from 'zod';
import { CarrelError } from '#base/errors.ts';
import type { Activity, Limits } from '#contract/schemas/machines.ts';
import { activity as activitySchema, driverName } from '#contract/schemas/machines.ts';
import { json } from '#store/columns.ts';
import type { Machine as Row, MachineLimits, MachineTable } from '#store/machines.ts';
import type { Db } from '#store/schema.ts';

/** The `config` column: what was asked for and does not change. */
const configSchema = z.strictObject({
  image: z.string(),
  /** The content it was made of: an image of the same name built later is another one. */
  imageHash: z.string(),
  /** Lines of authorized_keys(5), checked. */
  sshKeys: z.array(z.string()).default([]),
  /** Whose disk it begins with; forgotten once it has run. `copied`: it has that disk. */
  source: z
    .strictObject({
      machineId: z.string(),
      snapshot: z.string().nullable(),
      copied: z.boolean().default(false),
    })
    .optional(),
  /** Start it once it is made. */
  start: z.boolean(),
  /** Lives for one piece of work of this process only; removed when its creator is gone. */
  ephemeral: z.strictObject({ pid: z.int(), startTime: z.string() }).optional(),
});
export type MachineConfig = z.infer<typeof configSchema>;

export function configOf(row: Pick<Row, 'id' | 'config'>): MachineConfig {
  const parsed = configSchema.safeParse(row.config);
  if (parsed.success) return parsed.data;
  throw new CarrelError('internal', `the configuration of machine ${row.id} cannot be read`, {
    cause: parsed.error,
  });
}

export function configJson(
  config: MachineConfig,
): ReturnType<typeof json<Readonly<Record<string, unknown>>>> {
  return json<Readonly<Record<string, unknown>>>({ ...config });
}

/** What a row says of a machine that has no processes. */
export const atRest = { keeper: null, runtime: null, asleep: false } as const;

export function limitsToStore({ cpus, memoryBytes, processes, diskBytes }: Limits): MachineLimits {
  return { cpu: cpus, memory: memoryBytes, pids: processes, disk: diskBytes };
}

export function limitsOf({ limits }: Pick<Row, 'limits'>): Limits {
  const { cpu = 1, memory = 512 * 2 ** 20, pids = 512, disk = 2 * 2 ** 30 } = limits;
  return { cpus: cpu, memoryBytes: memory, processes: pids, diskBytes: disk };
}

export function activityOf({ activity }: Pick<Row, 'activity'>): Activity | null {
  return activity === null ? null : activitySchema.parse(activity);
}

export function driverOf({ driver }: Pick<Row, 'driver'>): z.infer<typeof driverName> {
  return driverName.parse(driver);
}

/**
 * Changes the row and moves `gen`, if `gen` is still the given one: gives the new generation, or undefined
 * when somebody else has changed the machine meanwhile and the caller has been overtaken.
 */
export async function changeMachine(
  db: Db,
  { id, gen }: { readonly id: string; readonly gen: number },
  values: Omit<Updateable<MachineTable>, 'gen'>,
): Promise<number | undefined> {
  const row = await db
    .updateTable('machines')
    .set({ ...values, gen: sql<number>`gen + 1` })
    .where('id', '=', id)
    .where('gen', '=', gen)
    .where('deleted_at', 'is', null)
    .returning('gen')
    .executeTakeFirst();
  return row?.gen;
}
