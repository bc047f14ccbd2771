/**
 * Lock files that die with their holder: flock(2) belongs to the open file description, so the kernel lets
 * go when the last process that has it open is gone, even by SIGKILL. Never decide by "could not connect".
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { errnoOf } from '#base/errors.ts';
import { ownFd } from './fds.ts';
import { syscallErrno, syscallError, trySyscall } from './syscalls.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;

export interface FileLock extends Disposable {
  readonly path: string;
  /** The locked descriptor: a child that inherits it holds the lock as well. */
  readonly fd: number;
  release(): void;
}

/**
 * Takes the lock, or returns undefined when somebody holds it. `note` (a pid, a JSON line) is written into
 * the file for people and for `readLockNote`; the lock, not the note, says whether the holder lives.
 * The file stays after release: removing it would let two processes lock two files of one name.
 */
export function tryLock(
  path: string,
  { note = `${process.pid}\n` }: { note?: string } = {},
): FileLock | undefined {
  const fd = openSync(path, 'a+', 0o600);
  const result = trySyscall('flock', fd, LOCK_EX | LOCK_NB);
  if (result < 0) {
    closeSync(fd);
    const error = syscallError('flock', result, path);
    if (syscallErrno(error) === 'EAGAIN') return undefined;
    throw error;
  }
  ftruncateSync(fd, 0);
  writeSync(fd, note);
  const owned = ownFd(fd);
  const release = (): void => {
    if (!owned.open) return;
    trySyscall('flock', fd, LOCK_UN);
    owned.close();
  };
  return { path, fd, release, [Symbol.dispose]: release };
}

/** Does a living process hold the lock? False when there is no such file. */
export function isLocked(path: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw error;
  }
  using owned = ownFd(fd);
  return trySyscall('flock', owned.fd, 1 | LOCK_NB) < 0;
}

/** What the present or last holder wrote, or undefined when there is no such file. */
export function readLockNote(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
