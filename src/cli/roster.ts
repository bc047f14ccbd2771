/** A class as CSV: a header line that names the columns, then a line for each person. */
import { CarrelError } from '#base/errors.ts';
import { role, type Role } from '#contract/schemas/people.ts';
import { name as nameSchema } from '#contract/schemas/common.ts';
import { parseCsv } from './csv.ts';

export interface RosterLine {
  readonly name: string;
  readonly role: Role;
  readonly section: string | null;
}

const columns = new Set(['name', 'role', 'section']);

/** Every mistake is found before anything is changed; the error lists them with their line numbers. */
export function parseRoster(
  text: string,
  { defaultRole = 'student' }: { defaultRole?: Role } = {},
): RosterLine[] {
  const [header = [], ...rows] = parseCsv(text);
  const heads = header.map((head) => head.trim().toLowerCase());
  const unknown = heads.filter((head) => !columns.has(head));
  if (!heads.includes('name') || unknown.length > 0)
    throw new CarrelError(
      'invalid_request',
      unknown.length > 0 ? `the roster has a column "${unknown[0]}"` : 'the roster has no column "name"',
      { hint: 'its first line names the columns: name, role, section' },
    );
  const mistakes: string[] = [];
  const seen = new Set<string>();
  const lines = rows.map((row, index): RosterLine => {
    const at = (head: string): string => row[heads.indexOf(head)]?.trim() ?? '';
    const complain = (text: string): void => void mistakes.push(`line ${index + 2}: ${text}`);
    const name = at('name');
    if (!nameSchema.safeParse(name).success) complain(`"${name}" is not a name (a-z, 0-9 and inner dashes)`);
    if (seen.has(name)) complain(`${name} is there twice`);
    seen.add(name);
    if (row.length > heads.length) complain(`${row.length} cells, but ${heads.length} columns`);
    const parsed = role.safeParse(
      heads.includes('role') && at('role') !== '' ? at('role').toLowerCase() : defaultRole,
    );
    if (!parsed.success) complain(`"${at('role')}" is not a role (instructor, ta, student)`);
    return {
      name,
      role: parsed.data ?? defaultRole,
      section: heads.includes('section') ? at('section') || null : null,
    };
  });
  if (mistakes.length > 0)
    throw new CarrelError(
      'invalid_request',
      `the roster has ${mistakes.length} mistake(s): ${mistakes.slice(0, 5).join('; ')}`,
      {
        details: { mistakes },
      },
    );
  return lines;
}
