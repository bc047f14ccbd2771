/** Labs of a course: imported as folders, released, due, published. A changed folder is a new version. */
import type { Actor } from '#base/actor.ts';
import { CarrelError } from '#base/errors.ts';
import { decodeCursor, pageOf, type Listed, type Page } from '#contract/page.ts';
import type { Lab, LabChange } from '#contract/schemas/labs.ts';
import type { LabDefinition } from '#grading/format/lab.ts';
import type { LabFolder } from '#grading/format/folder.ts';
import type { ArchiveFormat } from '#images/archive/read.ts';
import { json } from '#store/columns.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import {
  insertLab,
  insertLabVersion,
  selectLab,
  selectLabVersion,
  selectOptionalLabByName,
  type Lab as LabRow,
} from '#store/labs.ts';
import type { Db, Tx } from '#store/schema.ts';
import type { LabFolders } from './folders.ts';
import { showLab, type Viewer } from './views.ts';

export interface LabServices {
  readonly db: Db;
  readonly folders: LabFolders;
}

/** The folder of a lab's version; its current one unless another is named. */
export async function folderOf(
  { db, folders }: LabServices,
  lab: LabRow,
  version = lab.version,
): Promise<{ readonly treeHash: string; readonly folder: LabFolder }> {
  const { tree_hash: treeHash } = await selectLabVersion(db, lab.id, version);
  return { treeHash, folder: await folders.open(treeHash) };
}

async function view(services: LabServices, row: LabRow, viewer: Viewer): Promise<Lab> {
  const { treeHash, folder } = await folderOf(services, row);
  return showLab(row, treeHash, folder.lab, viewer);
}

/** Imports a lab folder. A lab of that name gets a new version, unless the folder is the one it has. */
export async function importLab(
  services: LabServices,
  actor: Actor,
  courseId: string,
  upload: {
    readonly source: AsyncIterable<Uint8Array>;
    readonly format: ArchiveFormat;
    readonly name?: string | undefined;
  },
): Promise<Lab> {
  const { treeHash, folder } = await services.folders.receive(upload.source, upload.format);
  const name = upload.name ?? folder.lab.name;
  const row = await transaction(services.db, async (tx) => {
    // The course row is the lock: two imports of one name are one lab with two versions.
    await tx.selectFrom('courses').select('id').where('id', '=', courseId).forUpdate().execute();
    return saveVersion(tx, actor, courseId, { name, treeHash, definition: folder.lab });
  });
  return view(services, row, { staff: true, now: new Date() });
}

async function saveVersion(
  tx: Tx,
  actor: Actor,
  courseId: string,
  {
    name,
    treeHash,
    definition,
  }: { readonly name: string; readonly treeHash: string; readonly definition: LabDefinition },
): Promise<LabRow> {
  const content = { title: definition.title, spec: summaryOf(definition), treeHash, createdBy: actor.id };
  const old = await selectOptionalLabByName(tx, courseId, name);
  if (old && (await selectLabVersion(tx, old.id, old.version)).tree_hash === treeHash) return old;
  const lab = old
    ? await insertLabVersion(tx, old.id, content)
    : await insertLab(tx, { courseId, name, ...content });
  await insertEvent(tx, {
    kind: old ? 'lab.version_added' : 'lab.created',
    subject: lab.id,
    courseId,
    actor: actor.id,
    payload: { name, version: lab.version, treeHash },
  });
  return lab;
}

/** What the row keeps of the rubric, so that queries need not open the folder. */
function summaryOf({ points, run, image, machine, checks }: LabDefinition): unknown {
  return {
    points,
    run,
    image,
    machine,
    checks: checks.map(({ id, title, points, visibility }) => ({ id, title, points, visibility })),
  };
}

/** The labs of a course by name; students see released ones. */
export async function listLabs(
  services: LabServices,
  courseId: string,
  { cursor, limit }: Page,
  viewer: Viewer,
): Promise<Listed<Lab>> {
  let query = services.db.selectFrom('labs').selectAll().where('course_id', '=', courseId);
  if (!viewer.staff) query = query.where('released_at', 'is not', null);
  if (cursor !== undefined) query = query.where('name', '>', decodeCursor(cursor, 1)[0] ?? '');
  const rows = await query
    .orderBy('name')
    .limit(limit + 1)
    .execute();
  const page = pageOf(
    rows,
    limit,
    (row) => row,
    (row) => [row.name],
  );
  return { items: await Promise.all(page.items.map((row) => view(services, row, viewer))), next: page.next };
}

/** One lab and its ETag. */
export async function getLab(
  services: LabServices,
  labId: string,
  viewer: Viewer,
): Promise<{ readonly lab: Lab; readonly etag: number }> {
  const row = await selectLab(services.db, labId);
  return { lab: await view(services, row, viewer), etag: row.etag };
}

/** Releases, dates, publishes. What is left out stays; `allow` sees the locked row's ETag and may refuse. */
export async function changeLab(
  services: LabServices,
  actor: Actor,
  labId: string,
  change: LabChange,
  allow: (etag: number) => void = () => undefined,
): Promise<{ readonly lab: Lab; readonly etag: number }> {
  const row = await transaction(services.db, async (tx) => {
    const old = await tx
      .selectFrom('labs')
      .selectAll()
      .where('id', '=', labId)
      .forUpdate()
      .executeTakeFirst();
    if (!old) throw new CarrelError('not_found', `lab ${labId} does not exist`);
    allow(old.etag);
    const now = new Date();
    const { released, ready, dueAt, published, lateRule } = change;
    const changed = await tx
      .updateTable('labs')
      .set({
        etag: old.etag + 1,
        ...(released !== undefined && { released_at: released ? (old.released_at ?? now) : null }),
        ...(ready !== undefined && { ready }),
        ...(dueAt !== undefined && { due_at: dueAt === null ? null : new Date(dueAt) }),
        ...(published !== undefined && { published_at: published ? (old.published_at ?? now) : null }),
        ...(lateRule !== undefined && { late_rule: json<unknown>(lateRule) }),
      })
      .where('id', '=', labId)
      .returningAll()
      .executeTakeFirstOrThrow();
    await insertEvent(tx, {
      kind: 'lab.changed',
      subject: labId,
      courseId: old.course_id,
      actor: actor.id,
      payload: { ...change },
    });
    return changed;
  });
  return { lab: await view(services, row, { staff: true, now: new Date() }), etag: row.etag };
}
