/**
 * What PostgreSQL's errors mean to us. Only those that tell the caller something are translated; the rest pass
 * as they are. Codes: PostgreSQL manual, appendix A.
 */
import { CarrelError, errnoOf, messageOf } from '#base/errors.ts';
import { DatabaseError } from 'pg';

const connectionErrnos = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ENOENT',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAGAIN',
]);
/** pg reports a lost connection as a plain Error with one of these sentences. */
const connectionSentences =
  /^(Connection terminated|Client has encountered a connection error|Client was closed|timeout exceeded when trying to connect|timeout expired|Connection ended|Query read timeout)/;

function sqlState(error: unknown): string | undefined {
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth += 1)
    if (at instanceof DatabaseError) return at.code;
  return undefined;
}

/** True if the database could not be reached or went away: the statement may or may not have been done. */
export function isConnectionLoss(error: unknown): boolean {
  const state = sqlState(error);
  // 08: connection; 57P01-57P03: shutting down, crashed, starting up; 53300: too many connections
  if (state !== undefined) return state.startsWith('08') || /^57P0[123]$/.test(state) || state === '53300';
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth += 1) {
    if (connectionErrnos.has(errnoOf(at) ?? '') || connectionSentences.test(at.message)) return true;
  }
  return false;
}

/** True if running the whole transaction again can succeed: serialization failure or deadlock. */
export function isTransactionConflict(error: unknown): boolean {
  const state = sqlState(error);
  return state === '40001' || state === '40P01';
}

/** The name of the constraint or unique index that refused the row; undefined for any other error. */
export function violatedConstraint(error: unknown): string | undefined {
  for (let at = error, depth = 0; at instanceof Error && depth < 5; at = at.cause, depth += 1)
    if (at instanceof DatabaseError && at.code?.startsWith('23')) return at.constraint;
  return undefined;
}

/** The error to throw for one that pg threw. */
export function translateDatabaseError(error: unknown): unknown {
  if (error instanceof CarrelError) return error;
  if (isConnectionLoss(error))
    return new CarrelError('unavailable', `the database is not reachable: ${messageOf(error)}`, {
      hint: 'it is restarted by itself; try again in a few seconds',
      cause: error,
    });
  switch (sqlState(error) ?? '') {
    case '53100':
      return new CarrelError('disk_full', 'the disk of the database is full', {
        hint: 'free space on the disk that holds the data directory',
        cause: error,
      });
    case '40001':
    case '40P01':
      return new CarrelError('unavailable', 'two changes of the same objects met, and this one gave way', {
        hint: 'try again',
        cause: error,
      });
    case '55P03':
      return new CarrelError('unavailable', 'another change to the same object takes too long', {
        hint: 'try again in a few seconds',
        cause: error,
      });
    case '57014':
      return new CarrelError('deadline_exceeded', 'a database statement took too long and was stopped', {
        cause: error,
      });
    case '22021':
      return new CarrelError('invalid_request', 'the text contains a character that cannot be stored (NUL)', {
        cause: error,
      });
    default:
      return error;
  }
}
