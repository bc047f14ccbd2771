/** Labs, submissions, grades and regrades. */
import { z } from 'zod';
import { bytes, id, line, name, page, time } from './common.ts';
import { sshKeys } from './keys.ts';
import { driverName } from './machines.ts';

/** When a student sees a check and its result (the words are Gradescope's). */
export const visibility = z.enum(['hidden', 'after_due_date', 'after_published', 'visible']);
export type Visibility = z.infer<typeof visibility>;

/** What is lost by handing in late: a share of the points for each day begun, down to a floor; or nothing is taken. */
export const lateRule = z.strictObject({
  accept: z.boolean().default(true),
  graceMinutes: z.int().min(0).max(1440).default(0),
  percentPerDay: z.number().min(0).max(100).default(0),
  floorPercent: z.number().min(0).max(100).default(0),
});
export type LateRule = z.infer<typeof lateRule>;

export const lab = z.strictObject({
  id,
  courseId: id,
  name,
  title: line(200),
  /** The rubric's version: grows with every change of the lab's folder. */
  version: z.int(),
  treeHash: z.string(),
  points: z.number(),
  run: z.enum(['sandbox', 'machine']),
  image: name,
  /** Students' own, and with `run: machine` those that grade: the kind, and how many wait. null: any container will do. */
  machine: z.strictObject({ driver: driverName, ready: z.int().min(0) }).nullable(),
  summary: z.string(),
  /** What a student hands in. */
  files: z.array(z.strictObject({ pattern: z.string(), required: z.boolean(), maxBytes: bytes })),
  checks: z.array(z.strictObject({ id: z.string(), title: z.string(), points: z.number(), visibility })),
  released: z.boolean(),
  dueAt: time.nullable(),
  publishedAt: time.nullable(),
  lateRule,
  createdAt: time,
});
export type Lab = z.infer<typeof lab>;

export const labChange = z.strictObject({
  released: z.boolean().optional(),
  /** How many of its virtual machines shall wait for students; null: as the lab says itself. */
  ready: z.int().min(0).max(8).nullable().optional(),
  dueAt: time.nullable().optional(),
  /** True publishes the marks now; false takes them back. */
  published: z.boolean().optional(),
  lateRule: lateRule.optional(),
});
export type LabChange = z.infer<typeof labChange>;

/** The caller's own machine for a lab. */
export const openLabMachine = z.strictObject({
  /** Unless given: the lab's. */
  name: name.optional(),
  /** Who may come in as root by ssh. */
  sshKeys: sshKeys.default([]),
});
export type OpenLabMachine = z.infer<typeof openLabMachine>;

/** The receipt: what was handed in and when. It never changes again. */
export const submission = z.strictObject({
  id,
  labId: id,
  user: name,
  attempt: z.int(),
  submittedAt: time,
  /** SHA-256 over the sorted paths, modes and contents. */
  treeHash: z.string(),
  bytes,
  files: z.array(z.strictObject({ path: z.string(), bytes, sha256: z.string() })),
  late: z.boolean(),
  /** Where grading stands: the state of the newest grading job. */
  grading: z.enum(['queued', 'running', 'graded', 'error']),
  points: z.number().nullable(),
  maxPoints: z.number(),
});
export type Submission = z.infer<typeof submission>;

export const submissionQuery = page.extend({ user: name.optional() });

/** `error`: the check gave no verdict, which is the author's or the host's fault; never a pass, and shown to staff. */
export const checkState = z.enum(['passed', 'failed', 'partial', 'error', 'skipped']);
export type CheckState = z.infer<typeof checkState>;

export const checkResult = z.strictObject({
  id: z.string(),
  title: z.string(),
  state: checkState,
  points: z.number(),
  maxPoints: z.number(),
  visibility,
  /** One sentence that says why, in terms of what was observed. */
  reason: z.string(),
  /** What the student's program printed, cut to a few KiB; empty where the lab does not show it. */
  stdout: z.string(),
  stderr: z.string(),
  wallMs: z.number().nullable(),
  cpuMs: z.number().nullable(),
  memoryBytes: z.number().nullable(),
});
export type CheckResult = z.infer<typeof checkResult>;

export const grade = z.strictObject({
  id,
  submissionId: id,
  labVersion: z.int(),
  current: z.boolean(),
  state: z.enum(['graded', 'error']),
  /** After the late rule; before it in `rawPoints`. Null while a hidden check forbids showing the total. */
  points: z.number().nullable(),
  rawPoints: z.number().nullable(),
  maxPoints: z.number(),
  checks: z.array(checkResult),
  /** How many checks the caller may not see yet. */
  hiddenChecks: z.int(),
  gradedAt: time,
  regradeId: id.nullable(),
});
export type Grade = z.infer<typeof grade>;

/** One line of the gradebook: a student, his best-counting submission, and each check's points. */
export const gradebookRow = z.strictObject({
  user: name,
  section: z.string().nullable(),
  attempts: z.int(),
  submissionId: id.nullable(),
  submittedAt: time.nullable(),
  late: z.boolean(),
  state: z.enum(['none', 'queued', 'running', 'graded', 'error']),
  points: z.number().nullable(),
  maxPoints: z.number(),
  checks: z.array(z.strictObject({ id: z.string(), state: checkState, points: z.number() })),
});
export type GradebookRow = z.infer<typeof gradebookRow>;

export const newRegrade = z.strictObject({
  /** All submissions of the lab unless given. */
  submissions: z.array(id).min(1).max(10_000).optional(),
});

export const regrade = z.strictObject({
  id,
  labId: id,
  jobId: id,
  labVersion: z.int(),
  requestedBy: name,
  createdAt: time,
  undoneAt: time.nullable(),
  total: z.int(),
  done: z.int(),
  /** Submissions whose points differ from the grade before. */
  changes: z.array(
    z.strictObject({
      submissionId: id,
      user: name,
      before: z.number().nullable(),
      after: z.number().nullable(),
      checks: z.array(z.string()),
    }),
  ),
});
export type Regrade = z.infer<typeof regrade>;
