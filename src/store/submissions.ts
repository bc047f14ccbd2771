/** Submissions: facts. What was handed in and when never changes (a trigger refuses it); every attempt is kept. */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { sql, type ColumnType, type Selectable } from 'kysely';
import { json, type Fact, type Json } from './columns.ts';
import type { Db, Tx } from './schema.ts';

/** One file as it was handed in; the bytes are in the blob store under `hash`. */
export interface SubmittedFile {
  readonly path: string;
  readonly hash: string;
  readonly bytes: number;
}

export interface SubmissionTable {
  id: Fact<string>;
  lab_id: Fact<string>;
  user_id: Fact<string>;
  attempt: Fact<number>;
  submitted_at: ColumnType<Date, Date | undefined, never>;
  tree_hash: Fact<string>;
  files: Json<readonly SubmittedFile[]>;
  bytes: Fact<number>;
}
export type Submission = Selectable<SubmissionTable>;

/** Stores the next attempt of this user at this lab; parallel calls get different attempts. */
export async function insertSubmission(
  tx: Tx,
  values: {
    readonly labId: string;
    readonly userId: string;
    readonly treeHash: string;
    readonly files: readonly SubmittedFile[];
    readonly bytes: number;
  },
): Promise<Submission> {
  const { labId, userId } = values;
  await sql`select pg_advisory_xact_lock(hashtextextended(${`submission ${labId} ${userId}`}, 0))`.execute(
    tx,
  );
  return tx
    .insertInto('submissions')
    .values((eb) => ({
      id: newId('submission'),
      lab_id: labId,
      user_id: userId,
      attempt: eb
        .selectFrom('submissions')
        .select(sql<number>`coalesce(max(attempt), 0) + 1`.as('next'))
        .where('lab_id', '=', labId)
        .where('user_id', '=', userId),
      tree_hash: values.treeHash,
      files: json(values.files),
      bytes: values.bytes,
    }))
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function selectOptionalSubmission(db: Db, id: string): Promise<Submission | undefined> {
  return db.selectFrom('submissions').selectAll().where('id', '=', id).executeTakeFirst();
}

export async function selectSubmission(db: Db, id: string): Promise<Submission> {
  const submission = await selectOptionalSubmission(db, id);
  if (!submission) throw new CarrelError('not_found', `submission ${id} does not exist`);
  return submission;
}
