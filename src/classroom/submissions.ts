/**
 * Handing in. The files go to the blob store and are durable before the row says so; the row fixes the instant
 * for ever, and is written together with the job that will grade it.
 */
import type { Actor } from '#base/actor.ts';
import { CarrelError } from '#base/errors.ts';
import { decodeNumberCursor, pageOf, type Listed, type Page } from '#contract/page.ts';
import type { Grade, Submission } from '#contract/schemas/labs.ts';
import type { LabDefinition } from '#grading/format/lab.ts';
import { acceptSubmission } from '#grading/format/submission.ts';
import { latenessOf } from '#grading/late.ts';
import { uploadLimits } from '#images/archive/limits.ts';
import { readArchive, type ArchiveFormat } from '#images/archive/read.ts';
import type { BlobStore } from '#images/blobs.ts';
import { hashEntries } from '#images/tree.ts';
import { enqueue } from '#jobs/queue.ts';
import { insertBlobs } from '#store/blobs.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { selectGrades } from '#store/grades.ts';
import { selectLab, type Lab as LabRow } from '#store/labs.ts';
import type { Db } from '#store/schema.ts';
import { insertSubmission, selectSubmission, type SubmittedFile } from '#store/submissions.ts';
import { sql } from 'kysely';
import { gradeKey, gradeSubmissionKind } from './kinds.ts';
import { folderOf, type LabServices } from './labs.ts';
import { lateRuleOf, showGrade, showSubmission, type Viewer } from './views.ts';

export interface SubmissionServices extends LabServices {
  readonly blobs: BlobStore;
}

export interface Upload {
  readonly source: AsyncIterable<Uint8Array>;
  readonly format: ArchiveFormat;
}

interface Received extends SubmittedFile {
  readonly data: Buffer;
}

/** Reads the archive within the lab's own limits: what it would refuse anyway is not even stored. */
async function receive(
  { source, format }: Upload,
  { submit }: LabDefinition,
): Promise<Omit<Received, 'hash'>[]> {
  const limits = {
    ...uploadLimits,
    totalBytes: submit.totalSize,
    fileBytes: Math.max(...submit.files.map((file) => file.maxSize)),
    entries: 4 * submit.maxFiles + 16,
  };
  const files: Omit<Received, 'hash'>[] = [];
  for await (const entry of readArchive(source, format, limits)) {
    if (entry.kind === 'directory') continue;
    const chunks: Uint8Array[] = [];
    for await (const chunk of entry.data) chunks.push(chunk);
    const data = Buffer.concat(chunks);
    files.push({ path: entry.path, bytes: data.length, data });
  }
  acceptSubmission(submit, files);
  return files;
}

/** The content hash on the receipt: sorted paths and contents; modes do not count, so it is the same on every system. */
function receiptHash(files: readonly SubmittedFile[]): string {
  return hashEntries(files.map(({ path, hash }) => ({ path, kind: 'file', mode: 0o644, content: hash })));
}

function refuseTooLate(lab: LabRow): void {
  const rule = lateRuleOf(lab);
  if (rule.accept || !latenessOf(new Date(), lab.due_at, rule).late) return;
  throw new CarrelError(
    'wrong_state',
    `${lab.title} was due ${lab.due_at?.toISOString()} and takes no late work`,
    {
      hint: 'ask your instructor',
    },
  );
}

/** Takes a submission: an attempt that is kept for ever, and the job that grades it. */
export async function submit(
  services: SubmissionServices,
  actor: Actor,
  labId: string,
  upload: Upload,
  requestId: string | null = null,
): Promise<{ readonly submissionId: string; readonly jobId: string }> {
  const { db, blobs } = services;
  const lab = await selectLab(db, labId);
  refuseTooLate(lab);
  const { folder } = await folderOf(services, lab);
  const received = await receive(upload, folder.lab);
  const files: SubmittedFile[] = [];
  for (const { path, bytes, data } of received) {
    const { hash } = await blobs.put(data);
    files.push({ path, hash, bytes });
  }
  return transaction(db, async (tx) => {
    await insertBlobs(tx, files);
    const submission = await insertSubmission(tx, {
      labId,
      userId: actor.id,
      treeHash: receiptHash(files),
      files,
      bytes: files.reduce((sum, file) => sum + file.bytes, 0),
    });
    const job = await enqueue(
      tx,
      gradeSubmissionKind,
      { submissionId: submission.id, labVersion: lab.version, regradeId: null },
      {
        dedupeKey: gradeKey(submission.id),
        requester: actor.id,
        requestId,
        resources: [`/v1/submissions/${submission.id}`],
      },
    );
    await insertEvent(tx, {
      kind: 'submission.received',
      subject: submission.id,
      courseId: lab.course_id,
      ownerId: actor.id,
      actor: actor.id,
      payload: { labId, attempt: submission.attempt, treeHash: submission.tree_hash },
    });
    return { submissionId: submission.id, jobId: job.id };
  });
}

/** Submissions with their current grade and, where there is none yet, the job that will make it. */
export function selectWithGrades(db: Db) {
  return db
    .selectFrom('submissions')
    .innerJoin('users', 'users.id', 'submissions.user_id')
    .leftJoin('grades', (join) =>
      join.onRef('grades.submission_id', '=', 'submissions.id').on('grades.current', '=', true),
    )
    .select((eb) => [
      'submissions.id',
      'submissions.lab_id',
      'submissions.user_id',
      'submissions.attempt',
      'submissions.submitted_at',
      'submissions.tree_hash',
      'submissions.files',
      'submissions.bytes',
      'users.name as user',
      'grades.state as gradeState',
      'grades.points as gradePoints',
      'grades.max_points as gradeMaxPoints',
      'grades.checks as gradeChecks',
      eb
        .selectFrom('jobs')
        .select('jobs.state')
        .where('jobs.dedupe_key', '=', sql<string>`'grade ' || submissions.id`)
        .where('jobs.state', 'in', ['queued', 'running'])
        .limit(1)
        .as('jobState'),
    ]);
}

/** Newest first: the actor's own, or for staff everybody's (`user` narrows it). */
export async function listSubmissions(
  services: SubmissionServices,
  actor: Actor,
  labId: string,
  { cursor, limit, user }: Page & { readonly user?: string | undefined },
  viewer: Viewer,
): Promise<Listed<Submission>> {
  const lab = await selectLab(services.db, labId);
  const { folder } = await folderOf(services, lab);
  let query = selectWithGrades(services.db)
    .select(sql<number>`(extract(epoch from submissions.submitted_at) * 1000000)::bigint`.as('instant'))
    .where('submissions.lab_id', '=', labId);
  if (!viewer.staff) query = query.where('submissions.user_id', '=', actor.id);
  if (user !== undefined) query = query.where(sql`lower(users.name)`, '=', user.toLowerCase());
  if (cursor !== undefined)
    query = query.where(
      sql<boolean>`(extract(epoch from submissions.submitted_at) * 1000000)::bigint < ${decodeNumberCursor(cursor)}`,
    );
  const rows = await query
    .orderBy('submissions.submitted_at', 'desc')
    .limit(limit + 1)
    .execute();
  return pageOf(
    rows,
    limit,
    (row) => showSubmission(row, lab, folder.lab.points, viewer),
    (row) => [row.instant],
  );
}

export async function getSubmission(
  services: SubmissionServices,
  submissionId: string,
  viewer: Viewer,
): Promise<Submission> {
  const row = await selectWithGrades(services.db)
    .where('submissions.id', '=', submissionId)
    .executeTakeFirst();
  if (!row) throw new CarrelError('not_found', `submission ${submissionId} does not exist`);
  const lab = await selectLab(services.db, row.lab_id);
  const { folder } = await folderOf(services, lab);
  return showSubmission(row, lab, folder.lab.points, viewer);
}

/** The grades of a submission, the current one first. Students see that one only. */
export async function listGrades(
  { db }: { readonly db: Db },
  submissionId: string,
  viewer: Viewer,
): Promise<Grade[]> {
  const submission = await selectSubmission(db, submissionId);
  const lab = await selectLab(db, submission.lab_id);
  const grades = (await selectGrades(db, submissionId)).toReversed();
  return [
    ...grades.filter((grade) => grade.current),
    ...(viewer.staff ? grades.filter((grade) => !grade.current) : []),
  ].map((grade) => showGrade(grade, lab, submission.submitted_at, viewer));
}
