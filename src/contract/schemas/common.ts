/** The small shapes that every resource shares. */
import { z } from 'zod';

/** A name that people choose: used in paths, host names and file names, so it is narrow. */
export const name = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/, 'use a-z, 0-9 and inner dashes, at most 63 characters');

/** One line of text for people: no control characters. */
export const line = (max: number) =>
  z
    .string()
    .trim()
    .min(1)
    .max(max)
    .regex(/^[^\p{Cc}\p{Cs}\u2028\u2029]*$/u, 'one line, without control characters');

/** An id of any kind; which kind, and whether it exists, is checked where it is looked up. */
export const id = z.string().regex(/^[a-z]{1,2}-[0-9a-hjkmnp-tv-z]{12}$/, 'not an id');

/** RFC 3339, always UTC on the way out. */
export const time = z.iso.datetime({ offset: true });

export const bytes = z.int().min(0);
export const milliseconds = z.int().min(0);

export const labels = z
  .record(name, z.string().max(63))
  .refine((all) => Object.keys(all).length <= 32, 'at most 32 labels');

/** RFC 9457 problem details; `code` is stable, `hint` says what to do next. */
export const problem = z.strictObject({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  code: z.string(),
  detail: z.string(),
  hint: z.string().optional(),
  details: z.record(z.string(), z.unknown()).optional(),
  requestId: z.string(),
});
export type Problem = z.infer<typeof problem>;

/** Lists are read in pages: pass the `next` of one page as the `cursor` of the following request. */
export const page = z.strictObject({
  cursor: z.string().max(200).optional(),
  limit: z.coerce.number().int().min(1).max(500).default(100),
});

export const listOf = <T extends z.ZodType>(item: T) =>
  z.strictObject({ items: z.array(item), next: z.string().nullable() });

/** How long a GET may wait for a change, in seconds (`?wait=30`). */
export const wait = z.coerce.number().min(0).max(60).default(0);
