/** What the guest's kernel said, in our words. */
import { constants } from 'node:os';
import { CarrelError, type ErrorCode } from '#base/errors.ts';
import { errnoName } from '#host/syscalls.ts';
import { reading } from './payload.ts';

const { errno } = constants;

/** Codes of errors that mean the same wherever they come from. */
const codes: ReadonlyMap<number, ErrorCode> = new Map([
  [errno.ENOENT, 'not_found'],
  [errno.EISDIR, 'invalid_request'],
  [errno.ENOTDIR, 'invalid_request'],
  [errno.EINVAL, 'invalid_request'],
  [errno.ELOOP, 'invalid_request'],
  [errno.ENAMETOOLONG, 'invalid_request'],
  [errno.EFBIG, 'too_large'],
  [errno.E2BIG, 'too_large'],
  [errno.ENOSPC, 'disk_full'],
  [errno.EDQUOT, 'disk_full'],
  [errno.EACCES, 'forbidden'],
  [errno.EPERM, 'forbidden'],
  [errno.EROFS, 'forbidden'],
  [errno.EEXIST, 'wrong_state'],
  [errno.EAGAIN, 'no_capacity'],
  [errno.ENOMEM, 'no_capacity'],
  [errno.ETIMEDOUT, 'deadline_exceeded'],
  [errno.EOPNOTSUPP, 'driver_unsupported'],
  [errno.ENOSYS, 'driver_unsupported'],
]);

const sentences: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  EINVAL: 'it is not a regular file',
  EFBIG: 'it is larger than allowed',
  E2BIG: 'the arguments are too long',
  ENOSPC: "the machine's disk is full",
  EACCES: 'it may not be executed',
  EPERM: 'it is not allowed',
  EROFS: 'the file system is read-only',
  EAGAIN: 'the machine has as many as it can have',
  ENOMEM: 'the machine has no memory left',
  EEXIST: 'there is one already',
  ETIMEDOUT: 'it took too long',
};

/** The caller's mistakes in what is to be run. */
const mistakes: Readonly<Record<string, string>> = {
  user: 'there is no such user in the machine',
  cwd: 'there is no such directory in the machine',
};

/** The error of a `failed` frame: an errno, and which step it was. */
export function failureOf(payload: Buffer, what: string): CarrelError {
  const from = reading(payload);
  const number = from.u32();
  const stage = from
    .rest()
    .toString('latin1')
    .slice(0, 200)
    .replace(/[^ -~]/g, '?');
  const name = number < 4096 ? errnoName(number) : String(number);
  const details = { stage, errno: name };
  const mistake = mistakes[stage];
  if (mistake !== undefined)
    return new CarrelError('invalid_request', `${what} as asked: ${mistake}`, { details });
  // a program that is not there is the caller's mistake, no missing resource
  const code = stage === 'exec' ? (name === 'EAGAIN' ? 'no_capacity' : 'invalid_request') : codes.get(number);
  const why =
    stage === 'exec' && name === 'ENOENT'
      ? 'there is no such program'
      : (sentences[name] ?? `${name} (${stage})`);
  return new CarrelError(code ?? 'helper_failed', `${what}: ${why}`, { details });
}
