/** Grading again. */
import { sleep } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import type { Client } from '#contract/client.ts';
import type { Regrade } from '#contract/schemas/labs.ts';
import { findLab } from '../lookup.ts';
import type { Action } from '../spec.ts';
import type { Output } from '../ui/output.ts';
import { renderTable } from '../ui/table.ts';
import { waitForJob } from '../waiting.ts';

function render(regrade: Regrade, lab: string, out: Output): string {
  const head = `${out.paint('bold', regrade.id)}  ${regrade.done} of ${regrade.total} graded with version ${regrade.labVersion}, by ${regrade.requestedBy}${regrade.undoneAt ? `; undone ${regrade.undoneAt}` : ''}`;
  if (regrade.changes.length === 0) return `${head}\nNo points have changed.`;
  const table = renderTable(regrade.changes, [
    { head: 'STUDENT', cell: (change) => change.user },
    { head: 'SUBMISSION', cell: (change) => change.submissionId },
    { head: 'BEFORE', cell: (change) => change.before, align: 'right' },
    { head: 'AFTER', cell: (change) => change.after, align: 'right' },
    { head: 'CHECKS', cell: (change) => change.checks.join(', ') },
  ]);
  return `${head}\n${table}${regrade.undoneAt ? '' : `\nTo take it back: carrel regrade undo ${lab} ${regrade.id}`}`;
}

const limitMs = 3_600_000;

/** The job hands the submissions out; each is graded by a job of its own. */
async function untilDone(
  client: Client,
  out: Output,
  params: { lab: string; regrade: string },
): Promise<Regrade> {
  using progress = out.progress();
  const end = performance.now() + limitMs;
  for (;;) {
    const regrade = await client.getRegrade({ params });
    if (regrade.done >= regrade.total) return regrade;
    if (performance.now() > end)
      throw new CarrelError(
        'deadline_exceeded',
        `${regrade.total - regrade.done} submissions are not graded yet`,
        {
          hint: `carrel regrade show ${params.lab} ${params.regrade}`,
        },
      );
    progress.update('graded', regrade.done, regrade.total);
    await sleep(200);
  }
}

export const regradeStart: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const word = args.word('lab');
  const lab = await findLab(client, word);
  const submissions = args.words('submissions');
  const started = await client.createRegrade(
    { params: { lab: lab.id }, body: submissions.length > 0 ? { submissions: [...submissions] } : {} },
    { idempotencyKey: crypto.randomUUID() },
  );
  if (!args.unless('wait')) {
    out.result(started, ({ regrade, job }) => `${regrade.id}: ${regrade.total} submissions, job ${job.id}`);
    return undefined;
  }
  await waitForJob(client, out, started.job.id);
  const regrade = await untilDone(client, out, { lab: lab.id, regrade: started.regrade.id });
  out.result(regrade, () => render(regrade, word, out));
  return undefined;
};

export const regradeShow: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const lab = await findLab(client, args.word('lab'));
  const regrade = await client.getRegrade({ params: { lab: lab.id, regrade: args.word('regrade') } });
  out.result(regrade, () => render(regrade, args.word('lab'), out));
  return undefined;
};

export const regradeUndo: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const lab = await findLab(client, args.word('lab'));
  const regrade = await client.undoRegrade({ params: { lab: lab.id, regrade: args.word('regrade') } });
  out.result(regrade, () => `${regrade.id} is undone: the grades from before are current again.`);
  return undefined;
};
