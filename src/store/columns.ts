/** Column types shared by the tables: what is read, what may be inserted, what may be changed. */
import type { ColumnType } from 'kysely';

/** Set by the database at insertion; never changed. */
export type CreatedAt = ColumnType<Date, Date | undefined, never>;
/** Written once with the row; an update does not compile. */
export type Fact<T> = ColumnType<T, T, never>;
/** Has a default, may be changed. */
export type Defaulted<T> = ColumnType<T, T | undefined, T>;
/** May be null; left out means null. */
export type Nullable<T> = ColumnType<T | null, T | null | undefined, T | null>;
/** A jsonb column. Written through `json(...)`, for the driver would turn a bare array into a PostgreSQL array. */
export type Json<T> = ColumnType<T, JsonInput<T>, JsonInput<T>>;
export type DefaultedJson<T> = ColumnType<T, JsonInput<T> | undefined, JsonInput<T>>;
export type NullableJson<T> = ColumnType<T | null, JsonInput<T> | null | undefined, JsonInput<T> | null>;

/** A value on its way into a jsonb column; the driver asks it for its text. */
export class JsonInput<T> {
  readonly value: T;

  constructor(value: T) {
    this.value = value;
  }

  /** Called by pg when it binds the parameter. */
  toPostgres(): string {
    return jsonText(this.value);
  }
}

/** Marks a value for a jsonb column. */
export function json<T>(value: T): JsonInput<T> {
  return new JsonInput(value);
}

/**
 * JSON text that jsonb accepts: it refuses NUL and lone surrogates, both of which a student's program can
 * print. They become U+FFFD, in keys too.
 */
export function jsonText(value: unknown): string {
  const text = JSON.stringify(value ?? null);
  return text.includes(String.raw`\u0000`) || text.includes(String.raw`\ud`)
    ? JSON.stringify(clean(value))
    : text;
}

function clean(value: unknown): unknown {
  if (typeof value === 'string') return value.toWellFormed().replaceAll('\0', '\uFFFD');
  if (Array.isArray(value)) return value.map(clean);
  if (value instanceof Date || typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [clean(key), clean(item)]));
}
