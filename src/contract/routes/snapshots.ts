import { listOf } from '../schemas/common.ts';
import { accepted } from '../schemas/jobs.ts';
import { transcriptQuery } from '../schemas/machines.ts';
import { newClone, newPassword, newSnapshot, snapshot } from '../schemas/snapshots.ts';
import type { Route } from '../route.ts';

/** What a machine's disk was, copies of it, and the way in when everything else is lost. */
export const snapshotRoutes = {
  listSnapshots: {
    method: 'GET',
    path: '/v1/machines/{machine}/snapshots',
    doc: 'List a machine’s snapshots, the oldest first',
    access: 'machine:use',
    reply: listOf(snapshot),
  },
  createSnapshot: {
    method: 'POST',
    path: '/v1/machines/{machine}/snapshots',
    doc: 'Keep the disk as it is now; of a running machine with what it has written until now',
    access: 'machine:use',
    body: newSnapshot,
    reply: accepted,
    status: 202,
    idempotent: true,
  },
  deleteSnapshot: {
    method: 'DELETE',
    path: '/v1/machines/{machine}/snapshots/{snapshot}',
    doc: 'Forget a snapshot',
    access: 'machine:use',
    reply: accepted,
    status: 202,
  },
  restoreSnapshot: {
    method: 'POST',
    path: '/v1/machines/{machine}/snapshots/{snapshot}/restore',
    doc: 'Make the disk what it was; a running machine is powered off before, and started again',
    access: 'machine:use',
    reply: accepted,
    status: 202,
    conditional: true,
    idempotent: true,
  },
  cloneMachine: {
    method: 'POST',
    path: '/v1/machines/{machine}/clones',
    doc: 'Make another machine with a copy of its disk, and with an identity of its own',
    access: 'machine:use',
    body: newClone,
    reply: accepted,
    status: 202,
    idempotent: true,
  },
  resetPassword: {
    method: 'POST',
    path: '/v1/machines/{machine}/password',
    doc: 'Give root a new random password; it is shown in this answer and never again',
    access: 'machine:use',
    reply: newPassword,
  },
  getConsoleTranscript: {
    method: 'GET',
    path: '/v1/machines/{machine}/console/transcript',
    doc: 'What is kept of the console: the first and the last MiB, from a byte offset on',
    access: 'machine:use',
    query: transcriptQuery,
    replyBytes: 'application/octet-stream',
  },
} as const satisfies Record<string, Route>;
