/** Errors as RFC 9457 problem details. What is not meant for the caller stays in the log. */
import { CarrelError, errorCodes, type ErrorCode } from '#base/errors.ts';
import { translateDatabaseError } from '#store/errors.ts';
import type { Problem } from '#contract/schemas/common.ts';

const titles: Partial<Record<ErrorCode, string>> = {
  gone: 'No longer there',
  internal: 'Internal error',
  etag_mismatch: 'Changed by someone else',
};

/** `not_found` -> `Not found`. */
function titleOf(code: ErrorCode): string {
  return titles[code] ?? code.charAt(0).toUpperCase() + code.slice(1).replaceAll('_', ' ');
}

/** Anything thrown as an error with a code; what we did not foresee becomes `internal` without its message. */
export function toCarrelError(thrown: unknown): CarrelError {
  const error = translateDatabaseError(thrown);
  if (error instanceof CarrelError) return error;
  if (error instanceof Error && error.name === 'AbortError')
    return new CarrelError('cancelled', 'the request was cancelled', { cause: error });
  return new CarrelError('internal', 'the server made a mistake', {
    hint: 'the log has more: look for the request id',
    cause: error,
  });
}

export function problemOf(error: CarrelError, requestId: string): Problem {
  return {
    type: `https://carrel.invalid/problems/${error.code}`,
    title: titleOf(error.code),
    status: errorCodes[error.code],
    code: error.code,
    detail: error.message,
    ...(error.hint !== undefined && { hint: error.hint }),
    ...(error.details !== undefined && { details: { ...error.details } }),
    requestId,
  };
}

/** Headers that belong to certain codes. */
export function problemHeaders(error: CarrelError): Record<string, string> {
  const headers: Record<string, string> = { 'content-type': 'application/problem+json' };
  const { code, details } = error;
  if (code === 'unauthenticated') headers['www-authenticate'] = 'Bearer';
  if (code === 'method_not_allowed' && typeof details?.['allow'] === 'string')
    headers['allow'] = details['allow'];
  const retry = details?.['retryAfterSeconds'];
  if (typeof retry === 'number') headers['retry-after'] = String(Math.max(1, Math.ceil(retry)));
  else if (code === 'unavailable' || code === 'no_capacity') headers['retry-after'] = '2';
  // The rest of a refused body is not read: the connection cannot be used again.
  if (code === 'too_large' || code === 'timeout') headers['connection'] = 'close';
  return headers;
}
