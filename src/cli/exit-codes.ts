/**
 * Exit codes. One table: the CLI exits by it, docs/cli.md prints it, and every error code of the API has its
 * line in it (the compiler sees to that).
 */
import type { ErrorCode } from '#base/errors.ts';

export const exitCodes = {
  ok: 0,
  failed: 1,
  usage: 2,
  refused: 3,
  unavailable: 4,
  conflict: 5,
  interrupted: 130,
} as const;

export type Exit = keyof typeof exitCodes;

export const exitMeanings: Readonly<Record<Exit, string>> = {
  ok: 'done',
  failed: 'the command ran, and what it was to do failed: a job, a check, a test',
  usage: 'bad arguments, or input that the server finds invalid; nothing was changed',
  refused: 'not found, not allowed, or not signed in',
  unavailable: 'the cloud does not answer, or the host cannot do it, now or at all',
  conflict: 'the thing exists already, has changed meanwhile, or is in the wrong state',
  interrupted: 'interrupted with Ctrl-C',
};

export const exitOf: Readonly<Record<ErrorCode, Exit>> = {
  invalid_request: 'usage',
  invalid_archive: 'usage',
  unauthenticated: 'refused',
  forbidden: 'refused',
  not_found: 'refused',
  method_not_allowed: 'usage',
  timeout: 'unavailable',
  name_taken: 'conflict',
  wrong_state: 'conflict',
  idempotency_mismatch: 'conflict',
  gone: 'refused',
  etag_mismatch: 'conflict',
  too_large: 'usage',
  unsupported_media_type: 'usage',
  validation_failed: 'usage',
  lab_invalid: 'usage',
  quota_exceeded: 'conflict',
  cancelled: 'failed',
  internal: 'failed',
  host_unsupported: 'unavailable',
  driver_unsupported: 'unavailable',
  helper_failed: 'failed',
  machine_lost: 'failed',
  no_capacity: 'unavailable',
  unavailable: 'unavailable',
  deadline_exceeded: 'unavailable',
  disk_full: 'unavailable',
};
