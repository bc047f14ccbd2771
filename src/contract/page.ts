/** Pages of lists: the cursor is opaque to clients and carries the sort key of the last row. */
import { CarrelError } from '#base/errors.ts';

export interface Page {
  readonly cursor?: string | undefined;
  readonly limit: number;
}

export interface Listed<T> {
  items: T[];
  next: string | null;
}

export function encodeCursor(...key: readonly (string | number)[]): string {
  return Buffer.from(JSON.stringify(key)).toString('base64url');
}

/** The key of a cursor that has `length` parts; `validation_failed` for one that we did not make. */
export function decodeCursor(cursor: string, length: number): string[] {
  try {
    const key: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString());
    if (
      Array.isArray(key) &&
      key.length === length &&
      key.every((part) => typeof part === 'string' || Number.isSafeInteger(part))
    )
      return key.map(String);
  } catch {
    // falls through to the one sentence there is for it
  }
  throw new CarrelError('validation_failed', 'cursor: not one that was given out', {
    details: { where: 'query', issues: [{ path: 'cursor', message: 'not one that was given out' }] },
  });
}

/** The same for a numeric key. */
export function decodeNumberCursor(cursor: string): number {
  const value = Number(decodeCursor(cursor, 1)[0]);
  if (Number.isSafeInteger(value)) return value;
  throw new CarrelError('validation_failed', 'cursor: not one that was given out');
}

/** Cuts rows that were read with one too many into a page: the extra one says whether there is a next page. */
export function pageOf<Row, Item>(
  rows: readonly Row[],
  limit: number,
  view: (row: Row) => Item,
  keyOf: (row: Row) => readonly (string | number)[],
): Listed<Item> {
  const page = rows.slice(0, limit);
  const last = page.at(-1);
  return {
    items: page.map(view),
    next: rows.length > limit && last !== undefined ? encodeCursor(...keyOf(last)) : null,
  };
}
