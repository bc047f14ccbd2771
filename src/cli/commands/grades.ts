/** Marks. */
import { CarrelError } from '#base/errors.ts';
import { formatCsv } from '../csv.ts';
import { findLab, findSubmission } from '../lookup.ts';
import { checkMarks, renderGrade } from '../render-grade.ts';
import type { Action } from '../spec.ts';

export const gradeShow: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const submission = await findSubmission(client, args.word('submission'));
  const { items } = await client.listGrades({ params: { submission: submission.id } });
  const shown = args.flag('all') ? items : items.filter((grade) => grade.current);
  if (shown.length === 0)
    throw new CarrelError('not_found', `${submission.id} has no grade yet (${submission.grading})`, {
      hint: 'wait a moment; staff can see why with: carrel job ls',
    });
  out.result(args.flag('all') ? shown : shown[0], () =>
    shown
      .map((grade) => {
        const head = `${submission.id}, ${submission.user}, version ${grade.labVersion} of the lab, graded ${grade.gradedAt}`;
        return `${out.paint('dim', head)}\n${renderGrade(grade, out, { output: args.flag('output') })}`;
      })
      .join('\n\n'),
  );
  return undefined;
};

export const gradebook: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const lab = await findLab(client, args.word('lab'));
  const { items } = await client.getGradebook({ params: { lab: lab.id } });
  if (args.flag('csv')) {
    const head = [
      'student',
      'section',
      'attempts',
      'submission',
      'submitted',
      'late',
      'state',
      'points',
      'max',
      ...lab.checks.map((check) => check.id),
    ];
    const rows = items.map((row) => [
      row.user,
      row.section,
      row.attempts,
      row.submissionId,
      row.submittedAt,
      row.late ? 'yes' : 'no',
      row.state,
      row.points,
      row.maxPoints,
      ...lab.checks.map((check) => row.checks.find((result) => result.id === check.id)?.points ?? null),
    ]);
    out.result(items, () => formatCsv([head, ...rows]));
    return undefined;
  }
  out.table(
    items,
    [
      { head: 'STUDENT', cell: (row) => row.user },
      { head: 'SECTION', cell: (row) => row.section },
      { head: 'ATTEMPTS', cell: (row) => row.attempts, align: 'right' },
      {
        head: 'POINTS',
        cell: (row) => (row.points === null ? '-' : `${row.points}/${row.maxPoints}`),
        align: 'right',
      },
      { head: 'CHECKS', cell: (row) => checkMarks(row.checks) },
      { head: 'STATE', cell: (row) => row.state, paint: out.state },
      { head: 'LATE', cell: (row) => (row.late ? 'yes' : '') },
    ],
    'nobody is in this course',
  );
  return undefined;
};
