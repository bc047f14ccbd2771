/** Scripts that are run inside a machine, line by line, with what came of each line. */
import type { Insertable, Selectable } from 'kysely';
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { CreatedAt, Defaulted, Fact, Nullable, NullableJson } from './columns.ts';
import type { StoredError } from './jobs.ts';
import type { Db, Tx } from './schema.ts';

/** `waiting`: for the machine's first boot. */
export type ScriptState = 'waiting' | 'running' | 'done' | 'interrupted' | 'cancelled';

export interface ScriptTable {
  id: Fact<string>;
  machine_id: Fact<string>;
  starter: Fact<boolean>;
  /** For each line. */
  limit_ms: Fact<number>;
  state: Defaulted<ScriptState>;
  /** Why lines were not run. */
  failure: NullableJson<StoredError>;
  job_id: Nullable<string>;
  requested_by: Nullable<string>;
  created_at: CreatedAt;
  started_at: Nullable<Date>;
  ended_at: Nullable<Date>;
}
export type Script = Selectable<ScriptTable>;

export interface ScriptLineTable {
  script_id: Fact<string>;
  /** From 1. */
  number: Fact<number>;
  line: Fact<string>;
  started_at: Nullable<Date>;
  ended_at: Nullable<Date>;
  wall_ms: Nullable<number>;
  /** `{kind: 'exited', status}` and the like, as the contract has it. */
  exit: NullableJson<Readonly<Record<string, unknown>>>;
  error: Nullable<string>;
  /** What is kept of the output; the totals are beside it. */
  stdout: Defaulted<string>;
  stderr: Defaulted<string>;
  stdout_bytes: Defaulted<number>;
  stderr_bytes: Defaulted<number>;
}
export type ScriptLine = Selectable<ScriptLineTable>;

/** The script with its lines, none of them run. */
export async function insertScript(
  tx: Tx,
  values: Omit<Insertable<ScriptTable>, 'id'>,
  lines: readonly string[],
): Promise<Script> {
  const script = await tx
    .insertInto('machine_scripts')
    .values({ id: newId('script'), ...values })
    .returningAll()
    .executeTakeFirstOrThrow();
  if (lines.length > 0)
    await tx
      .insertInto('machine_script_lines')
      .values(lines.map((line, index) => ({ script_id: script.id, number: index + 1, line })))
      .execute();
  return script;
}

export async function selectScript(db: Db, id: string): Promise<Script> {
  const script = await db.selectFrom('machine_scripts').selectAll().where('id', '=', id).executeTakeFirst();
  if (!script) throw new CarrelError('not_found', `script ${id} does not exist`);
  return script;
}

export async function selectScriptLines(db: Db, scriptId: string): Promise<ScriptLine[]> {
  return db
    .selectFrom('machine_script_lines')
    .selectAll()
    .where('script_id', '=', scriptId)
    .orderBy('number')
    .execute();
}

/** Whatever a machine had; for the transaction that deletes it. */
export async function deleteScripts(db: Db, machineId: string): Promise<void> {
  await db.deleteFrom('machine_scripts').where('machine_id', '=', machineId).execute();
}
