/** lab.yaml, field by field. labs/README.md explains it to authors. */
import { z } from 'zod';
import { line, name } from '#contract/schemas/common.ts';
import { visibility } from '#contract/schemas/labs.ts';
import { argv, duration, oneOf, relativePath, size, targetPath } from './fields.ts';
import { answersSpec, guestSpec } from './guest.ts';
import { buildSpec, callSpec, observeSpec, runSpec } from './kinds.ts';
import { limitFields } from './limits.ts';
import { machineFields } from './machine.ts';

/** What a solution promises of a check: its state, or, for a failed check, how it failed. */
export const promise = z.enum([
  'passed',
  'failed',
  'partial',
  'error',
  'skipped',
  'timeout',
  'memory',
  'crashed',
  'raised',
]);
export type Promised = z.infer<typeof promise>;

/** One word for all checks, or a word for each; `"*"` is meant for those not named. */
export const expected = z.union([promise, z.record(z.string(), promise)]);
export type Expected = z.infer<typeof expected>;

const filePattern = z
  .string()
  .min(1)
  .max(200)
  .refine((text) => relativePath.safeParse(text.replaceAll('*', 'x')).success, 'must be a relative pattern')
  .refine((text) => (text.match(/\*+/g) ?? []).length <= 8, 'has more than 8 wildcards');

export const submitFields = z.strictObject({
  files: z
    .array(
      z.strictObject({
        pattern: filePattern,
        required: z.boolean().default(true),
        maxSize: size(16 * 2 ** 20, '16 MiB').default(65_536),
      }),
    )
    .min(1)
    .max(50),
  totalSize: size(16 * 2 ** 20, '16 MiB').default(2 ** 20),
  maxFiles: z.int().min(1).max(1000).default(100),
});
export type SubmitFields = z.infer<typeof submitFields>;

/** A step that prepares a fresh machine before it is looked at. */
export const startStep = z
  .strictObject({
    /** Copies a submitted file (or all that match) into the machine; a directory if it ends in a slash. */
    place: z
      .strictObject({
        submitted: filePattern.optional(),
        test: relativePath.optional(),
        to: targetPath,
        mode: z.enum(['0644', '0755', '0600']).default('0644'),
      })
      .superRefine(oneOf(['submitted', 'test']))
      .optional(),
    /** Runs a command as the machine's root, and waits for it. What it prints is shown to the student. */
    run: z.strictObject({ argv, timeLimit: duration(600_000, '10 minutes').default(30_000) }).optional(),
    /** Waits, for what the commands left running. */
    wait: duration(60_000, '1 minute').optional(),
    /** Shuts a virtual machine down, switches it on, and waits so long, at most, until it answers. */
    restart: duration(600_000, '10 minutes').optional(),
  })
  .superRefine(oneOf(['place', 'run', 'wait', 'restart']));
export type StartStep = z.infer<typeof startStep>;

const points = z.number().min(0).max(100_000).multipleOf(0.01, 'must be a multiple of 0.01');

/** What the student may see of what his program printed. */
const show = z.enum(['nothing', 'stdout', 'stderr', 'both']);

export const checkFields = z
  .strictObject({
    id: name,
    title: line(200),
    points: points.optional(),
    weight: z.number().min(0).max(10_000).optional(),
    visibility: visibility.default('visible'),
    needs: z.array(name).max(50).default([]),
    limits: limitFields.optional(),
    show: show.default('both'),
    run: runSpec.optional(),
    call: callSpec.optional(),
    observe: observeSpec.optional(),
    guest: guestSpec.optional(),
    answers: answersSpec.optional(),
  })
  .superRefine(oneOf(['run', 'call', 'observe', 'guest', 'answers']))
  .refine((it) => it.points === undefined || it.weight === undefined, 'give points or a weight, not both');
export type CheckFields = z.infer<typeof checkFields>;

export const labFields = z.strictObject({
  title: line(200),
  name,
  summary: z.string().max(4000).default(''),
  image: name,
  run: z.enum(['sandbox', 'machine']),
  machine: machineFields.optional(),
  points: points.optional(),
  submit: submitFields,
  limits: limitFields.optional(),
  build: buildSpec.optional(),
  start: z.array(startStep).max(50).default([]),
  checks: z.array(checkFields).min(1).max(200),
  expected: z.record(name, expected).default({}),
});
export type LabFields = z.infer<typeof labFields>;
