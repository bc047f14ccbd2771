/** Handing in. */
import { formatSize } from '#base/units.ts';
import { collectFiles, pack } from '../archive.ts';
import { findLab } from '../lookup.ts';
import { renderGrade } from '../render-grade.ts';
import type { Action } from '../spec.ts';
import { waitForJob } from '../waiting.ts';

export const submit: Action = async ({ args, out, connect }) => {
  const files = await collectFiles(args.words('files'));
  const { client } = await connect();
  const lab = await findLab(client, args.word('lab'));
  const bytes = await pack(files);
  const { submission, job } = await client.submit(
    { params: { lab: lab.id }, bytes },
    { contentType: 'application/x-tar', idempotencyKey: crypto.randomUUID() },
  );
  const receipt = [
    `Handed in: ${submission.id}, attempt ${submission.attempt}, ${submission.submittedAt}${submission.late ? ' (late)' : ''}`,
    `  ${submission.files.length} files, ${formatSize(submission.bytes)}, sha256 ${submission.treeHash}`,
  ].join('\n');
  if (!args.unless('wait')) {
    out.result({ submission, job }, () => `${receipt}\nThe marks: carrel grade show ${submission.id}`);
    return undefined;
  }
  out.note(receipt);
  await waitForJob(client, out, job.id);
  const { items } = await client.listGrades({ params: { submission: submission.id } });
  const grade = items.find((candidate) => candidate.current) ?? null;
  out.result({ submission, grade }, () => (grade ? renderGrade(grade, out) : 'no grade yet'));
  return undefined;
};
