/**
 * Labs and their versions. A version is a fact: the lab folder (by content hash) and the rubric read from it;
 * `labs.version` says which one counts now, `labs.etag` grows with every change of the row.
 */
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import { sql, type Insertable, type Selectable } from 'kysely';
import {
  json,
  type CreatedAt,
  type Defaulted,
  type Fact,
  type Json,
  type Nullable,
  type NullableJson,
} from './columns.ts';
import { violatedConstraint } from './errors.ts';
import type { Db, Tx } from './schema.ts';

export interface LabTable {
  id: Fact<string>;
  course_id: Fact<string>;
  name: string;
  title: string;
  version: Defaulted<number>;
  due_at: Nullable<Date>;
  late_rule: NullableJson<unknown>;
  /** Students see the lab from here on. */
  released_at: Nullable<Date>;
  /** Machines that shall wait for students; null: as many as the lab says itself. */
  ready: Nullable<number>;
  /** Marks (and checks hidden until then) are shown from here on. */
  published_at: Nullable<Date>;
  etag: Defaulted<number>;
  created_at: CreatedAt;
}
export type Lab = Selectable<LabTable>;

export interface LabVersionTable {
  lab_id: Fact<string>;
  version: Fact<number>;
  /** lab.yaml as parsed; its schema belongs to grading. */
  spec: Json<unknown>;
  /** Content hash of the lab folder's manifest in the blob store. */
  tree_hash: Fact<string>;
  created_by: Fact<string>;
  created_at: CreatedAt;
}
export type LabVersion = Selectable<LabVersionTable>;

/** What a version is made from. */
export interface LabContent {
  readonly title: string;
  readonly spec: unknown;
  readonly treeHash: string;
  readonly createdBy: string;
}

/** Makes a lab with version 1. */
export async function insertLab(
  tx: Tx,
  { courseId, name, ...content }: LabContent & { readonly courseId: string; readonly name: string },
  more: Pick<Insertable<LabTable>, 'due_at' | 'late_rule' | 'released_at'> = {},
): Promise<Lab> {
  try {
    const lab = await tx
      .insertInto('labs')
      .values({ id: newId('lab'), course_id: courseId, name, title: content.title, ...more })
      .returningAll()
      .executeTakeFirstOrThrow();
    await insertVersion(tx, lab, content);
    return lab;
  } catch (error) {
    if (violatedConstraint(error) !== 'labs_name') throw error;
    throw new CarrelError('name_taken', `lab "${name}" already exists in this course`, { cause: error });
  }
}

/** Adds the next version and makes it the current one. */
export async function insertLabVersion(tx: Tx, labId: string, content: LabContent): Promise<Lab> {
  const lab = await tx
    .updateTable('labs')
    .set({ version: sql<number>`version + 1`, etag: sql<number>`etag + 1`, title: content.title })
    .where('id', '=', labId)
    .returningAll()
    .executeTakeFirst();
  if (!lab) throw new CarrelError('not_found', `lab ${labId} does not exist`);
  await insertVersion(tx, lab, content);
  return lab;
}

async function insertVersion(tx: Tx, lab: Lab, { spec, treeHash, createdBy }: LabContent): Promise<void> {
  await tx
    .insertInto('lab_versions')
    .values({
      lab_id: lab.id,
      version: lab.version,
      spec: json(spec),
      tree_hash: treeHash,
      created_by: createdBy,
    })
    .execute();
}

export async function selectOptionalLab(db: Db, id: string): Promise<Lab | undefined> {
  return db.selectFrom('labs').selectAll().where('id', '=', id).executeTakeFirst();
}

export async function selectLab(db: Db, id: string): Promise<Lab> {
  const lab = await selectOptionalLab(db, id);
  if (!lab) throw new CarrelError('not_found', `lab ${id} does not exist`);
  return lab;
}

export async function selectOptionalLabByName(
  db: Db,
  courseId: string,
  name: string,
): Promise<Lab | undefined> {
  return db
    .selectFrom('labs')
    .selectAll()
    .where('course_id', '=', courseId)
    .where('name', '=', name)
    .executeTakeFirst();
}

export async function selectLabVersion(db: Db, labId: string, version: number): Promise<LabVersion> {
  const row = await db
    .selectFrom('lab_versions')
    .selectAll()
    .where('lab_id', '=', labId)
    .where('version', '=', version)
    .executeTakeFirst();
  if (!row) throw new CarrelError('not_found', `lab ${labId} has no version ${version}`);
  return row;
}
