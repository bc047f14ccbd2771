/** What was handed in. */
import { resolve } from 'node:path';
import { formatSize } from '#base/units.ts';
import { chunksOf, unpack } from '../archive.ts';
import { findLab, findSubmission } from '../lookup.ts';
import type { Action } from '../spec.ts';
import { all } from '../waiting.ts';

export const submissionList: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const lab = await findLab(client, args.word('lab'));
  const user = args.option('user');
  const submissions = await all((page) =>
    client.listSubmissions({
      params: { lab: lab.id },
      query: { ...page, ...(user !== undefined && { user }) },
    }),
  );
  out.table(
    submissions,
    [
      { head: 'ID', cell: (submission) => submission.id },
      { head: 'STUDENT', cell: (submission) => submission.user },
      { head: 'ATTEMPT', cell: (submission) => submission.attempt, align: 'right' },
      { head: 'AT', cell: (submission) => `${submission.submittedAt}${submission.late ? ' late' : ''}` },
      { head: 'GRADING', cell: (submission) => submission.grading, paint: out.state },
      {
        head: 'POINTS',
        cell: (submission) =>
          submission.points === null ? '-' : `${submission.points}/${submission.maxPoints}`,
        align: 'right',
      },
    ],
    'nothing was handed in',
  );
  return undefined;
};

export const submissionShow: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const submission = await findSubmission(client, args.word('submission'));
  out.result(submission, () =>
    [
      `${out.paint('bold', submission.id)}  ${submission.user}, attempt ${submission.attempt}`,
      `handed in   ${submission.submittedAt}${submission.late ? ' (late)' : ''}`,
      `grading     ${out.state(submission.grading)}`,
      `points      ${submission.points ?? '-'} of ${submission.maxPoints}`,
      `sha256      ${submission.treeHash}`,
      ...submission.files.map(
        (file) => `  ${file.sha256.slice(0, 12)}  ${formatSize(file.bytes).padStart(9)}  ${file.path}`,
      ),
    ].join('\n'),
  );
  return undefined;
};

export const submissionDownload: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const { id } = await findSubmission(client, args.word('submission'));
  const archive = await client.getSubmissionArchive({ params: { submission: id } });
  if (args.flag('tar')) {
    for await (const chunk of chunksOf(archive)) await out.bytes(chunk);
    return undefined;
  }
  const directory = resolve(args.wordIf('dir') ?? id);
  const files = await unpack(archive, directory);
  out.result({ directory, files }, () =>
    [`${files.length} files in ${directory}`, ...files.map((file) => `  ${file}`)].join('\n'),
  );
  return undefined;
};
