/** Port forwards: which port of the host leads to which port of which machine. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { Insertable, Selectable } from 'kysely';
import type { CreatedAt, Fact } from './columns.ts';
import { violatedConstraint } from './errors.ts';
import type { Db } from './schema.ts';

export interface ForwardTable {
  id: Fact<string>;
  machine_id: Fact<string>;
  /** The host's address that is listened on. */
  host: Fact<string>;
  port: Fact<number>;
  machine_port: Fact<number>;
  created_by: Fact<string | null>;
  created_at: CreatedAt;
}
export type Forward = Selectable<ForwardTable>;

/** Makes the row, before anything listens; `name_taken` if another forward has that port. */
export async function insertForward(db: Db, values: Omit<Insertable<ForwardTable>, 'id'>): Promise<Forward> {
  try {
    return await db
      .insertInto('machine_forwards')
      .values({ id: newId('forward'), ...values })
      .returningAll()
      .executeTakeFirstOrThrow();
  } catch (error) {
    if (violatedConstraint(error) !== 'machine_forwards_endpoint') throw error;
    throw new CarrelError('name_taken', `port ${values.port} of ${values.host} is forwarded already`, {
      hint: 'choose another port; yours are shown by: carrel forward ls',
      cause: error,
    });
  }
}

/** Whatever a machine had; for the transaction that deletes it. */
export async function deleteForwards(db: Db, machineId: string): Promise<void> {
  await db.deleteFrom('machine_forwards').where('machine_id', '=', machineId).execute();
}
