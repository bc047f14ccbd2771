/** The field types that lab.yaml is made of. */
import { z } from 'zod';
import { messageOf } from '#base/errors.ts';
import { parseDuration, parseSize } from '#base/units.ts';
import { type Value, isValue } from './values.ts';

function converted(parse: (text: string) => number, min: number, max: number, maxText: string) {
  return z.union([z.number(), z.string()]).transform((value, context) => {
    try {
      const number = parse(String(value));
      if (number >= min && number <= max) return number;
      context.addIssue({
        code: 'custom',
        message: number < min ? 'is too small' : `is more than ${maxText}`,
      });
    } catch (error) {
      context.addIssue({ code: 'custom', message: messageOf(error) });
    }
    return z.NEVER;
  });
}

/** `64K`, `1M`, or a number of bytes. */
export const size = (max: number, maxText: string, min = 0) => converted(parseSize, min, max, maxText);

/** `3s`, `250ms`, or a number of seconds; gives milliseconds. */
export const duration = (max: number, maxText: string, min = 1) =>
  converted(parseDuration, min, max, maxText);

/** Is this the plain name of a file below some directory: relative, without `..`, links or control characters? */
export function isSafePath(path: string): boolean {
  return (
    path.length > 0 &&
    Buffer.byteLength(path) <= 255 &&
    !/[\p{Cc}\p{Cs}\\]/u.test(path) &&
    path.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
  );
}

export const relativePath = z
  .string()
  .refine(isSafePath, 'must be a relative path, without "..", at most 255 bytes long');

/** A file below tests/, and where the run finds it in its working directory. */
export const placed = z.strictObject({ from: relativePath, to: relativePath });

export const absolutePath = z
  .string()
  .refine(
    (path) => path.startsWith('/') && isSafePath(path.slice(1)),
    'must be an absolute path, without "..", at most 255 bytes long',
  );

/** A path in a machine to put a file at; a directory if it ends in a slash. */
export const targetPath = z
  .string()
  .refine(
    (path) => path.startsWith('/') && isSafePath(path.replace(/\/$/, '').slice(1)),
    'must be an absolute path, without "..", at most 255 bytes long',
  );

/** A program and its arguments; no shell looks at them. */
export const argv = z
  .array(
    z
      .string()
      .max(4096)
      .regex(/^[^\0]*$/, 'contains a NUL character'),
  )
  .min(1)
  .max(64);

export const environment = z.record(
  z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'is no name of an environment variable'),
  z
    .string()
    .max(4096)
    .regex(/^[^\0]*$/, 'contains a NUL character'),
);

export const value = z.custom<Value>((item) => isValue(item), 'must be plain data, at most 32 levels deep');

/** IPv4 in dotted form. */
export const ipv4 = z.ipv4();

/** Exactly one of these fields must be there. */
export function oneOf<K extends string>(keys: readonly K[]) {
  return (item: Readonly<Partial<Record<K, unknown>>>, context: z.RefinementCtx): void => {
    const given = keys.filter((key) => item[key] !== undefined);
    if (given.length !== 1)
      context.addIssue({
        code: 'custom',
        message: `needs exactly one of ${keys.join(', ')}${given.length > 1 ? `, not ${given.join(' and ')}` : ''}`,
      });
  };
}

/** At least one field must be there: an expectation that expects nothing would pass everything. */
export function notEmpty(item: Readonly<Record<string, unknown>>, context: z.RefinementCtx): void {
  if (Object.values(item).every((field) => field === undefined))
    context.addIssue({ code: 'custom', message: 'expects nothing, so everything would pass' });
}
