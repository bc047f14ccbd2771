/**
 * Regrades: all submissions of a lab, or some, with the lab's current version. The new grades stand beside the
 * old ones and become current; undoing a regrade makes the old ones current again.
 */
import type { Actor } from '#base/actor.ts';
import { CarrelError } from '#base/errors.ts';
import type { Regrade } from '#contract/schemas/labs.ts';
import { enqueue } from '#jobs/queue.ts';
import { defineJob } from '#jobs/types.ts';
import { transaction } from '#store/database.ts';
import { insertEvent } from '#store/events.ts';
import { insertRegrade, selectRegrade, undoRegrade as undoRegradeRow } from '#store/grades.ts';
import { selectLab } from '#store/labs.ts';
import type { Db } from '#store/schema.ts';
import { gradeSubmissionKind, regradeKind } from './kinds.ts';
import { parseChecks } from './views.ts';

/** Starts a regrade; `submissions` of other labs are refused. */
export async function createRegrade(
  db: Db,
  actor: Actor,
  labId: string,
  submissions: readonly string[] | undefined,
  requestId: string | null = null,
): Promise<{ readonly regradeId: string; readonly jobId: string }> {
  return transaction(db, async (tx) => {
    const lab = await selectLab(tx, labId);
    if (submissions) {
      const found = await tx
        .selectFrom('submissions')
        .select('id')
        .where('lab_id', '=', labId)
        .where('id', 'in', submissions)
        .execute();
      const known = new Set(found.map((row) => row.id));
      const foreign = submissions.find((id) => !known.has(id));
      if (foreign !== undefined)
        throw new CarrelError('not_found', `submission ${foreign} does not exist in this lab`);
    }
    const regrade = await insertRegrade(tx, {
      lab_id: labId,
      requested_by: actor.id,
      lab_version: lab.version,
      scope: submissions ?? 'all',
    });
    const job = await enqueue(
      tx,
      regradeKind,
      { regradeId: regrade.id, submissions: submissions ? [...new Set(submissions)] : null },
      { requester: actor.id, requestId, resources: [`/v1/labs/${labId}`] },
    );
    await tx.updateTable('regrades').set({ job_id: job.id }).where('id', '=', regrade.id).execute();
    await insertEvent(tx, {
      kind: 'regrade.started',
      subject: regrade.id,
      courseId: lab.course_id,
      actor: actor.id,
      payload: { labId, labVersion: lab.version },
    });
    return { regradeId: regrade.id, jobId: job.id };
  });
}

/** The handler: a child for each submission. The key makes it safe to run twice. */
export function defineRegradeJob({ db }: { readonly db: Db }) {
  return defineJob({
    ...regradeKind,
    async run({ job, progress }, { regradeId, submissions }) {
      const regrade = await selectRegrade(db, regradeId);
      let query = db.selectFrom('submissions').select('id').where('lab_id', '=', regrade.lab_id);
      if (submissions) query = query.where('id', 'in', submissions);
      const rows = await query.orderBy('submitted_at').execute();
      await transaction(db, async (tx) => {
        const made = await tx
          .selectFrom('jobs')
          .select('id')
          .where('parent_id', '=', job.id)
          .limit(1)
          .execute();
        if (made.length > 0) return;
        for (const { id } of rows)
          await enqueue(
            tx,
            gradeSubmissionKind,
            { submissionId: id, labVersion: regrade.lab_version, regradeId },
            {
              dedupeKey: `${regradeId} ${id}`,
              parentId: job.id,
              priority: -1,
              requester: job.requester,
              requestId: job.request_id,
              resources: [`/v1/submissions/${id}`],
            },
          );
      });
      progress(rows.length, rows.length, 'submissions queued');
      return { submissions: rows.length };
    },
  });
}

/** A regrade, how far it is, and the difference it makes (or made, if it was undone). */
export async function getRegrade(db: Db, regradeId: string): Promise<Regrade> {
  const regrade = await db
    .selectFrom('regrades')
    .innerJoin('users', 'users.id', 'regrades.requested_by')
    .selectAll('regrades')
    .select('users.name as requestedBy')
    .where('regrades.id', '=', regradeId)
    .executeTakeFirst();
  if (!regrade) throw new CarrelError('not_found', `regrade ${regradeId} does not exist`);
  const pairs = await db
    .selectFrom('grades as fresh')
    .innerJoin('submissions', 'submissions.id', 'fresh.submission_id')
    .innerJoin('users', 'users.id', 'submissions.user_id')
    // Before an undo the old grade points to the fresh one, after it the other way round.
    .leftJoin('grades as old', (join) =>
      join.on((eb) =>
        eb.or([
          eb('old.superseded_by', '=', eb.ref('fresh.id')),
          eb('old.id', '=', eb.ref('fresh.superseded_by')),
        ]),
      ),
    )
    .select([
      'submissions.id',
      'users.name as user',
      'fresh.points as after',
      'fresh.checks as checksAfter',
      'old.points as before',
      'old.checks as checksBefore',
    ])
    .where('fresh.regrade_id', '=', regradeId)
    .orderBy('users.name')
    .orderBy('submissions.attempt')
    .execute();
  const children = await db
    .selectFrom('jobs')
    .select(({ fn }) => [fn.countAll<number>().as('total'), fn.count<number>('ended_at').as('done')])
    .where('parent_id', '=', regrade.job_id ?? '')
    .executeTakeFirstOrThrow();
  return {
    id: regrade.id,
    labId: regrade.lab_id,
    jobId: regrade.job_id ?? '',
    labVersion: regrade.lab_version,
    requestedBy: regrade.requestedBy,
    createdAt: regrade.created_at.toISOString(),
    undoneAt: regrade.undone_at?.toISOString() ?? null,
    total: children.total,
    done: children.done,
    changes: pairs
      .map(({ id, user, before, after, checksBefore, checksAfter }) => ({
        submissionId: id,
        user,
        before,
        after,
        checks: changedChecks(checksBefore, checksAfter),
      }))
      .filter(({ before, after, checks }) => before !== after || checks.length > 0),
  };
}

/** Each check's state and points as one word, to compare. */
function outcomes(checks: unknown): Map<string, string> {
  return new Map(parseChecks(checks ?? []).map(({ id, state, points }) => [id, `${state} ${points}`]));
}

/** Ids of the checks whose outcome differs, new and vanished ones included. */
function changedChecks(before: unknown, after: unknown): string[] {
  const [old, fresh] = [outcomes(before), outcomes(after)];
  return [...new Set([...old.keys(), ...fresh.keys()])].filter((id) => old.get(id) !== fresh.get(id));
}

/** Makes the grades from before this regrade the current ones again. Again is harmless. */
export async function undoRegrade(db: Db, actor: Actor, regradeId: string): Promise<Regrade> {
  await transaction(db, async (tx) => {
    const { lab_id: labId } = await selectRegrade(tx, regradeId);
    const { course_id: courseId } = await selectLab(tx, labId);
    const restored = await undoRegradeRow(tx, regradeId);
    await insertEvent(tx, {
      kind: 'regrade.undone',
      subject: regradeId,
      courseId,
      actor: actor.id,
      payload: { restored },
    });
  });
  return getRegrade(db, regradeId);
}
