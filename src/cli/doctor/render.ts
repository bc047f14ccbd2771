/** Findings for people. */
import type { FindingState } from '#host/probe/finding.ts';
import type { Output } from '../ui/output.ts';
import { printable } from '../ui/style.ts';
import type { Summary, Topic } from './examine.ts';

const marks: Readonly<Record<FindingState, string>> = { ok: '✓', degraded: '~', missing: '✗' };
const colours = { ok: 'green', degraded: 'yellow', missing: 'red' } as const;

export function renderTopics(topics: readonly Topic[], out: Output, { all = false } = {}): string {
  const width = Math.max(...topics.flatMap(({ findings }) => findings.map(({ title }) => title.length)));
  const lines: string[] = [];
  for (const { topic, findings } of topics) {
    lines.push(out.paint('bold', topic));
    for (const { state, title, found, consequence, remedy } of findings) {
      lines.push(`  ${out.paint(colours[state], marks[state])} ${title.padEnd(width)}  ${printable(found)}`);
      const indent = ' '.repeat(width + 6);
      if (all || state !== 'ok') lines.push(out.paint('dim', `${indent}${consequence}`));
      if (remedy !== undefined) lines.push(`${indent}→ ${remedy}`);
    }
  }
  return lines.join('\n');
}

export function renderSummary({ counts, ready, packages }: Summary, out: Output): string {
  const lines = [
    `${counts.ok} ok, ${counts.degraded} degraded, ${counts.missing} missing.`,
    ready ? out.paint('green', 'Carrel can run here.') : out.paint('red', 'Carrel cannot run here yet.'),
  ];
  if (packages.length > 0) lines.push(`To install: ${packages.join(' ')}   (carrel doctor --fix, as root)`);
  return lines.join('\n');
}
