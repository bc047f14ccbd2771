/** A grade for people: points, then a line for each check with its reason. */
import { formatDuration } from '#base/units.ts';
import type { CheckResult, Grade } from '#contract/schemas/labs.ts';
import type { Output } from './ui/output.ts';
import { printable } from './ui/style.ts';

const marks: Readonly<Record<CheckResult['state'], string>> = {
  passed: '✓',
  failed: '✗',
  partial: '~',
  error: '!',
  skipped: '-',
};

const colours = {
  passed: 'green',
  failed: 'red',
  partial: 'yellow',
  error: 'yellow',
  skipped: 'dim',
} as const;

/** One character per check, for tables. */
export function checkMarks(checks: readonly Pick<CheckResult, 'state'>[]): string {
  return checks.map(({ state }) => marks[state]).join('');
}

function indent(text: string): string[] {
  return text
    .trimEnd()
    .split('\n')
    .map((line) => `      | ${printable(line)}`);
}

export function renderGrade(grade: Grade, out: Output, { output = false } = {}): string {
  const total = grade.points === null ? 'not shown yet' : `${grade.points} of ${grade.maxPoints} points`;
  const late = grade.points !== null && grade.rawPoints !== null && grade.rawPoints !== grade.points;
  const lines = [`${out.paint('bold', total)}${late ? ` (${grade.rawPoints} before the late rule)` : ''}`];
  if (grade.state === 'error')
    lines.push(out.paint('yellow', 'A check gave no verdict: staff will look at it.'));
  for (const check of grade.checks) {
    const time = check.wallMs === null ? '' : `  ${out.paint('dim', formatDuration(check.wallMs))}`;
    lines.push(
      `  ${out.paint(colours[check.state], marks[check.state])} ${check.points}/${check.maxPoints}  ${printable(check.title)}${time}`,
      `      ${printable(check.reason)}`,
    );
    if (output && check.stdout !== '') lines.push('      standard output:', ...indent(check.stdout));
    if (output && check.stderr !== '') lines.push('      standard error:', ...indent(check.stderr));
  }
  if (grade.hiddenChecks > 0) lines.push(`  ${grade.hiddenChecks} more checks are hidden for now`);
  return lines.join('\n');
}
