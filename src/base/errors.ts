/**
 * One error type for people and programs.
 *
 * Every failure that can reach a person is a `CarrelError`: a stable `code` from the table below,
 * a sentence that names the object (`message`), and, where there is one, what to do next (`hint`).
 * The HTTP status belongs to the code, so a route never chooses one.
 */

/** Stable codes. A code, once released, keeps its meaning; `status` is its HTTP status. */
export const errorCodes = {
  // the caller's mistakes
  invalid_request: 400,
  invalid_archive: 400,
  unauthenticated: 401,
  forbidden: 403,
  not_found: 404,
  method_not_allowed: 405,
  timeout: 408,
  name_taken: 409,
  wrong_state: 409,
  idempotency_mismatch: 409,
  gone: 410,
  etag_mismatch: 412,
  too_large: 413,
  unsupported_media_type: 415,
  validation_failed: 422,
  lab_invalid: 422,
  quota_exceeded: 429,
  cancelled: 499,
  // ours, or the host's
  internal: 500,
  host_unsupported: 501,
  driver_unsupported: 501,
  helper_failed: 502,
  machine_lost: 502,
  no_capacity: 503,
  unavailable: 503,
  deadline_exceeded: 504,
  disk_full: 507,
} as const satisfies Record<string, number>;

export type ErrorCode = keyof typeof errorCodes;

export interface ErrorDetails {
  /** What the reader can do next: one sentence. */
  readonly hint?: string;
  /** Machine-readable facts: field names, limits, paths. Never secrets. */
  readonly details?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

/**
 * @example
 * throw new CarrelError('name_taken', 'machine "web" already exists in your account', {
 *   hint: 'choose another name, or delete it with: carrel machine rm web',
 * });
 */
export class CarrelError extends Error {
  override readonly name = 'CarrelError';
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>> | undefined;

  constructor(code: ErrorCode, message: string, more: ErrorDetails = {}) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.code = code;
    this.hint = more.hint;
    this.details = more.details;
  }

  /** The HTTP status that goes with the code. */
  get status(): number {
    return errorCodes[this.code];
  }
}

/** The message of anything thrown, for logs and for the `cause` part of a sentence. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** `ENOENT`, `EEXIST`, ... of a Node system error; undefined for anything else. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** True for a `CarrelError`, or for one with the given code. */
export function isCarrelError(error: unknown, code?: ErrorCode): error is CarrelError {
  return error instanceof CarrelError && (code === undefined || error.code === code);
}
