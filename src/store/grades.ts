/**
 * Grades stand beside each other; exactly one per submission is current. A regrade adds grades and can be
 * undone. A job replayed after a crash finds the grade it already made.
 */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { sql, type ColumnType, type Insertable, type Selectable } from 'kysely';
import { json, type CreatedAt, type DefaultedJson, type Fact, type Json, type Nullable } from './columns.ts';
import type { Db, Tx } from './schema.ts';

export interface GradeTable {
  id: Fact<string>;
  submission_id: Fact<string>;
  lab_version: Fact<number>;
  /** The job that made it; unique. Null for a grade given by hand. */
  job_id: ColumnType<string | null, string | null, never>;
  regrade_id: ColumnType<string | null, string | null, never>;
  /** `error`: the lab gave no verdict, so there is no mark (never a zero). */
  state: Fact<'graded' | 'error'>;
  points: ColumnType<number | null, number | null, never>;
  max_points: Fact<number>;
  /** Per check: points, reason, visibility; the schema belongs to grading. */
  checks: Json<unknown>;
  graded_at: ColumnType<Date, Date | undefined, never>;
  current: boolean;
  superseded_by: Nullable<string>;
}
export type Grade = Selectable<GradeTable>;

export interface RegradeTable {
  id: Fact<string>;
  lab_id: Fact<string>;
  requested_by: Fact<string>;
  lab_version: Fact<number>;
  job_id: Nullable<string>;
  /** What was asked for: all, or which submissions. */
  scope: DefaultedJson<unknown>;
  undone_at: Nullable<Date>;
  created_at: CreatedAt;
}
export type Regrade = Selectable<RegradeTable>;

export interface NewGrade {
  readonly submissionId: string;
  readonly labVersion: number;
  readonly jobId: string | null;
  readonly regradeId?: string | null;
  readonly state: 'graded' | 'error';
  readonly points: number | null;
  readonly maxPoints: number;
  readonly checks: unknown;
}

/**
 * Adds a grade and makes it the current one. If the job has made one already, that one is returned and nothing
 * changes; if the current grade is by a later version of the lab, the new one is kept but does not replace it.
 */
export async function insertGrade(tx: Tx, grade: NewGrade): Promise<Grade> {
  await lockSubmission(tx, grade.submissionId);
  if (grade.jobId !== null) {
    const made = await tx
      .selectFrom('grades')
      .selectAll()
      .where('job_id', '=', grade.jobId)
      .executeTakeFirst();
    if (made) return made;
  }
  const id = newId('grade');
  const old = await selectOptionalCurrentGrade(tx, grade.submissionId);
  const late = old !== undefined && old.lab_version > grade.labVersion;
  if (old && !late)
    await tx
      .updateTable('grades')
      .set({ current: false, superseded_by: id })
      .where('id', '=', old.id)
      .execute();
  return tx
    .insertInto('grades')
    .values({
      id,
      submission_id: grade.submissionId,
      lab_version: grade.labVersion,
      job_id: grade.jobId,
      regrade_id: grade.regradeId ?? null,
      state: grade.state,
      points: grade.points,
      max_points: grade.maxPoints,
      checks: json(grade.checks),
      current: !late,
      superseded_by: late ? old.id : null,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

async function lockSubmission(tx: Tx, submissionId: string): Promise<void> {
  const row = await tx
    .selectFrom('submissions')
    .select('id')
    .where('id', '=', submissionId)
    .forUpdate()
    .executeTakeFirst();
  if (!row) throw new CarrelError('not_found', `submission ${submissionId} does not exist`);
}

export async function selectOptionalCurrentGrade(db: Db, submissionId: string): Promise<Grade | undefined> {
  return db
    .selectFrom('grades')
    .selectAll()
    .where('submission_id', '=', submissionId)
    .where('current', '=', true)
    .executeTakeFirst();
}

/** All grades of a submission, oldest first. */
export async function selectGrades(db: Db, submissionId: string): Promise<Grade[]> {
  return db
    .selectFrom('grades')
    .selectAll()
    .where('submission_id', '=', submissionId)
    .orderBy('graded_at')
    .orderBy('id')
    .execute();
}

export async function insertRegrade(
  db: Db,
  { scope, ...values }: Omit<Insertable<RegradeTable>, 'id' | 'scope'> & { readonly scope: unknown },
): Promise<Regrade> {
  return db
    .insertInto('regrades')
    .values({ id: newId('regrade'), ...values, scope: json(scope) })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export async function selectRegrade(db: Db, id: string): Promise<Regrade> {
  const row = await db.selectFrom('regrades').selectAll().where('id', '=', id).executeTakeFirst();
  if (!row) throw new CarrelError('not_found', `regrade ${id} does not exist`);
  return row;
}

/**
 * Takes a regrade back: where its grade is the current one, the grade it replaced is current again.
 * Grades made since by something else stay. Again is harmless. Gives the number of grades restored.
 */
export async function undoRegrade(tx: Tx, id: string): Promise<number> {
  const regrade = await tx
    .updateTable('regrades')
    .set({ undone_at: sql<Date>`coalesce(undone_at, now())` })
    .where('id', '=', id)
    .returning('id')
    .executeTakeFirst();
  if (!regrade) throw new CarrelError('not_found', `regrade ${id} does not exist`);
  const pairs = await tx
    .selectFrom('grades as fresh')
    .innerJoin('grades as old', 'old.superseded_by', 'fresh.id')
    .innerJoin('submissions', 'submissions.id', 'fresh.submission_id')
    .select(['fresh.id as fresh', 'old.id as old'])
    .where('fresh.regrade_id', '=', id)
    .where('fresh.current', '=', true)
    .orderBy('submissions.id')
    .forUpdate('submissions')
    .execute();
  for (const pair of pairs) {
    await tx
      .updateTable('grades')
      .set({ current: false, superseded_by: pair.old })
      .where('id', '=', pair.fresh)
      .execute();
    await tx
      .updateTable('grades')
      .set({ current: true, superseded_by: null })
      .where('id', '=', pair.old)
      .execute();
  }
  return pairs.length;
}
