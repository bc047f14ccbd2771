/** Tables for people: as narrow as their content, no lines, the last column may wrap. */
import { printable, widthOf } from './style.ts';

export interface Column<T> {
  readonly head: string;
  readonly cell: (row: T) => string | number | null | undefined;
  readonly align?: 'right';
  /** Paints a finished cell; the width has been taken before. */
  readonly paint?: (text: string, row: T) => string;
}

export function renderTable<T>(
  rows: readonly T[],
  columns: readonly Column<T>[],
  { paintHead = (text: string): string => text } = {},
): string {
  const cells = rows.map((row) =>
    columns.map(({ cell }) => printable(String(cell(row) ?? '-')).replaceAll('\n', ' ')),
  );
  const widths = columns.map(({ head }, index) =>
    Math.max(widthOf(head), ...cells.map((line) => widthOf(line[index] ?? ''))),
  );
  const pad = (text: string, index: number): string => {
    const space = ' '.repeat(Math.max(0, (widths[index] ?? 0) - widthOf(text)));
    if (columns[index]?.align === 'right') return space + text;
    return index === columns.length - 1 ? text : text + space;
  };
  const head = columns.map(({ head }, index) => paintHead(pad(head, index))).join('  ');
  const lines = cells.map((line, at) =>
    line
      .map((text, index) => {
        const padded = pad(text, index);
        const row = rows[at];
        const paint = columns[index]?.paint;
        return paint && row !== undefined ? padded.replace(text, () => paint(text, row)) : padded;
      })
      .join('  ')
      .trimEnd(),
  );
  return [head.trimEnd(), ...lines].join('\n');
}
