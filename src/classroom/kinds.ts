/** The jobs of the classroom, by kind: enough to enqueue them. Their handlers are in grade.ts and regrades.ts. */
import { z } from 'zod';
import type { JobKind } from '#jobs/types.ts';

const gradeArgs = z.strictObject({
  submissionId: z.string(),
  labVersion: z.int().min(1),
  regradeId: z.string().nullable(),
});
const gradeResult = z.strictObject({
  gradeId: z.string(),
  points: z.number().nullable(),
  maxPoints: z.number(),
});

/** Grades one submission with one version of its lab. An infrastructure fault is tried again, many times: never a zero. */
export const gradeSubmissionKind = {
  kind: 'submission.grade',
  args: gradeArgs,
  result: gradeResult,
  maxAttempts: 20,
} as const satisfies JobKind<typeof gradeArgs, typeof gradeResult>;

const regradeArgs = z.strictObject({ regradeId: z.string(), submissions: z.array(z.string()).nullable() });
const regradeResult = z.strictObject({ submissions: z.int() });

/** Makes a child for each submission of a regrade. */
export const regradeKind = {
  kind: 'lab.regrade',
  args: regradeArgs,
  result: regradeResult,
  maxAttempts: 20,
} as const satisfies JobKind<typeof regradeArgs, typeof regradeResult>;

/** While a submission's first grading is queued or running it has this key; views find it by that. */
export function gradeKey(submissionId: string): string {
  return `grade ${submissionId}`;
}
