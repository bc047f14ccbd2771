/** What a check may expect of bytes: of standard output, standard error, or a file. */
import { z } from 'zod';
import { messageOf } from '#base/errors.ts';
import { duration, notEmpty, relativePath, size } from './fields.ts';

const text = z.string().max(65_536);

function patternProblem(source: string): string | undefined {
  try {
    return RegExp(source, 'mu') && undefined;
  } catch (error) {
    return `is no regular expression: ${messageOf(error)}`;
  }
}

/** Bounded, and compiled once at loading, so that a broken pattern is found by the author and not by a student. */
const pattern = z
  .string()
  .max(1000)
  .superRefine((source, context) => {
    const problem = patternProblem(source);
    if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
  });

const textFields = {
  /** These bytes and no others. */
  exact: text.optional(),
  /** The bytes of this file below tests/. */
  exactFile: relativePath.optional(),
  /** All of these strings, in any order. */
  contains: z.union([text.min(1), z.array(text.min(1)).min(1).max(50)]).optional(),
  /** None of these strings. */
  excludes: z.union([text.min(1), z.array(text.min(1)).min(1).max(50)]).optional(),
  /** JavaScript syntax, flags `mu`. */
  regex: pattern.optional(),
  /** These lines; blanks at the ends of lines and empty lines at the end do not count. */
  lines: z.array(text).max(2000).optional(),
  /** All the numbers in the text, in order; what stands between them does not count. */
  numbers: z
    .strictObject({
      values: z
        .array(z.union([z.number(), z.bigint()]))
        .min(1)
        .max(2000),
      /** Allowed absolute difference. */
      tolerance: z.number().min(0).default(0),
      /** Allowed difference as a part of the expected value. */
      relative: z.number().min(0).max(1).default(0),
    })
    .optional(),
};

export const textExpectation = z.strictObject(textFields).superRefine(notEmpty);
export type TextExpectation = z.infer<typeof textExpectation>;

export const fileExpectation = z
  .strictObject({
    path: relativePath,
    ...textFields,
    sha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/, 'must be 64 hexadecimal digits')
      .optional(),
    /** True: the file must not be there. */
    absent: z.literal(true).optional(),
    maxSize: size(4 * 2 ** 20, '4 MiB').default(65_536),
  })
  .superRefine((file, context) => notEmpty({ ...file, path: undefined, maxSize: undefined }, context));
export type FileExpectation = z.infer<typeof fileExpectation>;

/** What a run must look like. */
export const runExpectation = z
  .strictObject({
    /** 0 unless something else, or a signal, is expected. */
    status: z.int().min(0).max(255).optional(),
    signal: z
      .string()
      .regex(/^SIG[A-Z0-9]+$/, 'must be a name such as SIGSEGV')
      .optional(),
    stdout: textExpectation.optional(),
    stderr: textExpectation.optional(),
    files: z.array(fileExpectation).min(1).max(50).optional(),
    maxWall: duration(1_800_000, '30 minutes').optional(),
    maxCpu: duration(600_000, '10 minutes').optional(),
    maxMemory: size(16 * 2 ** 30, '16 GiB').optional(),
  })
  .superRefine(notEmpty)
  .refine(
    (it) => it.status === undefined || it.signal === undefined,
    'a run ends by a status or by a signal, not both',
  );
export type RunExpectation = z.infer<typeof runExpectation>;
