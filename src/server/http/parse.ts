/** Input against the contract's schemas, with errors that name the field. */
import { CarrelError } from '#base/errors.ts';
import type { z } from 'zod';

/** `limits.memoryBytes`, `argv[3]`. */
function pathText(path: readonly PropertyKey[]): string {
  let text = '';
  for (const part of path)
    text += typeof part === 'number' ? `[${part}]` : `${text === '' ? '' : '.'}${String(part).slice(0, 80)}`;
  return text;
}

interface Issue {
  readonly path: string;
  readonly message: string;
}

function issuesOf(error: z.ZodError): Issue[] {
  return error.issues.slice(0, 20).flatMap((issue) => {
    const path = pathText(issue.path);
    if (issue.code !== 'unrecognized_keys') return [{ path, message: issue.message.slice(0, 200) }];
    return issue.keys
      .slice(0, 20)
      .map((key) => ({ path: pathText([...issue.path, key]), message: 'unknown field' }));
  });
}

/** The value as the schema gives it, or `validation_failed` with one entry per field in `details.issues`. */
export function check(schema: z.ZodType, value: unknown, where: 'body' | 'query'): unknown {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issues = issuesOf(parsed.error);
  const [first] = issues;
  const what = first
    ? `${first.path === '' ? `the ${where}` : first.path}: ${first.message}`
    : `invalid ${where}`;
  throw new CarrelError(
    'validation_failed',
    issues.length > 1 ? `${what} (and ${issues.length - 1} more)` : what,
    {
      details: { where, issues },
    },
  );
}

/** The query as an object; each parameter at most once. */
export function parseQuery(search: string): Record<string, string> {
  const query: Record<string, string> = Object.create(null);
  for (const [key, value] of new URLSearchParams(search)) {
    if (key in query)
      throw new CarrelError('validation_failed', `${key.slice(0, 80)}: given twice`, {
        details: { where: 'query', issues: [{ path: key.slice(0, 80), message: 'given twice' }] },
      });
    if (key.includes('\0') || value.includes('\0'))
      throw new CarrelError('validation_failed', `${key.slice(0, 80)}: may not contain a NUL character`);
    query[key] = value;
  }
  return query;
}
