import { z } from 'zod';
import { listOf, name, page } from '../schemas/common.ts';
import { accepted } from '../schemas/jobs.ts';
import {
  grade,
  gradebookRow,
  lab,
  labChange,
  newRegrade,
  openLabMachine,
  regrade,
  submission,
  submissionQuery,
} from '../schemas/labs.ts';
import type { Bytes, Route } from '../route.ts';

/** An upload: a tar or zip archive, its format stated by the content type, never guessed. */
const archive: Bytes = {
  types: ['application/x-tar', 'application/gzip', 'application/zip'],
  maxBytes: 64 * 2 ** 20,
};

/** Labs, submissions, grades. `{lab}` and `{submission}` are ids. */
export const labRoutes = {
  listLabs: {
    method: 'GET',
    path: '/v1/courses/{course}/labs',
    doc: 'The labs of a course; students see released ones',
    access: 'course:member',
    query: page,
    reply: listOf(lab),
  },
  importLab: {
    method: 'POST',
    path: '/v1/courses/{course}/labs',
    doc: 'Import a lab folder (an archive with lab.yaml); a lab of that name gets a new version',
    access: 'course:instructor',
    query: z.strictObject({ name: name.optional() }),
    bytes: archive,
    reply: lab,
    status: 201,
  },
  getLab: {
    method: 'GET',
    path: '/v1/labs/{lab}',
    doc: 'One lab',
    access: 'course:member',
    reply: lab,
    etag: true,
  },
  changeLab: {
    method: 'PATCH',
    path: '/v1/labs/{lab}',
    doc: 'Release a lab, set its due date or late rule, publish its marks',
    access: 'course:instructor',
    body: labChange,
    reply: lab,
    etag: true,
  },
  getLabStart: {
    method: 'GET',
    path: '/v1/labs/{lab}/start',
    doc: 'The start files, as a tar archive',
    access: 'course:member',
    replyBytes: 'application/x-tar',
  },
  openLabMachine: {
    method: 'POST',
    path: '/v1/labs/{lab}/machine',
    doc: 'Open your own machine for a lab: the one you have, started if need be, or a new one',
    access: 'course:member',
    body: openLabMachine,
    reply: accepted,
    status: 202,
    idempotent: true,
  },
  submit: {
    method: 'POST',
    path: '/v1/labs/{lab}/submissions',
    doc: 'Hand in files (an archive); the receipt is final, grading follows as a job',
    access: 'course:member',
    bytes: { ...archive, maxBytes: 16 * 2 ** 20 },
    reply: z.strictObject({ submission, job: accepted.shape.job }),
    status: 202,
    idempotent: true,
  },
  listSubmissions: {
    method: 'GET',
    path: '/v1/labs/{lab}/submissions',
    doc: 'Submissions, newest first: your own, or for staff everybody’s',
    access: 'course:member',
    query: submissionQuery,
    reply: listOf(submission),
  },
  getSubmission: {
    method: 'GET',
    path: '/v1/submissions/{submission}',
    doc: 'One submission: its receipt and where grading stands',
    access: 'submission:read',
    reply: submission,
  },
  getSubmissionArchive: {
    method: 'GET',
    path: '/v1/submissions/{submission}/archive',
    doc: 'The files that were handed in, as a tar archive',
    access: 'submission:read',
    replyBytes: 'application/x-tar',
  },
  listGrades: {
    method: 'GET',
    path: '/v1/submissions/{submission}/grades',
    doc: 'The grades of a submission, the current one first; students see the current one',
    access: 'submission:read',
    reply: listOf(grade),
  },
  getGradebook: {
    method: 'GET',
    path: '/v1/labs/{lab}/gradebook',
    doc: 'A line for each student of the course',
    access: 'course:staff',
    reply: listOf(gradebookRow),
  },
  createRegrade: {
    method: 'POST',
    path: '/v1/labs/{lab}/regrades',
    doc: 'Grade again, with the current version of the lab; the old grades stay beside the new ones',
    access: 'course:staff',
    body: newRegrade,
    reply: z.strictObject({ regrade, job: accepted.shape.job }),
    status: 202,
    idempotent: true,
  },
  getRegrade: {
    method: 'GET',
    path: '/v1/labs/{lab}/regrades/{regrade}',
    doc: 'A regrade and the difference it makes',
    access: 'course:staff',
    reply: regrade,
  },
  undoRegrade: {
    method: 'POST',
    path: '/v1/labs/{lab}/regrades/{regrade}/undo',
    doc: 'Make the grades from before this regrade the current ones again',
    access: 'course:staff',
    reply: regrade,
  },
} as const satisfies Record<string, Route>;
