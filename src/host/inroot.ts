/**
 * Files inside a tree that somebody hostile controls while we look: a machine's root, an unpacked archive.
 *
 * Every path is resolved by openat2(2) with RESOLVE_IN_ROOT (absolute paths, `..` and symlinks stay inside) and
 * RESOLVE_NO_MAGICLINKS (nothing leads out through /proc). A file is first opened with O_PATH, which has no
 * effect on whatever it is, then checked, and only then opened for reading through its own descriptor: so a
 * FIFO never blocks us, a device is never touched, and nothing can be swapped between check and use.
 *
 * `root` is a directory path we trust as a path, for example `/proc/<pid>/root`.
 */
import { randomBytes } from 'node:crypto';
import { constants, fstatSync, openSync, read as readCallback, writeSync } from 'node:fs';
import { lstat, opendir } from 'node:fs/promises';
import { basename, dirname } from 'node:path/posix';
import { promisify } from 'node:util';
import { CarrelError, type ErrorCode, errnoOf } from '#base/errors.ts';
import { type Fd, ownFd } from './fds.ts';
import { cString, errnoName, syscallErrno, syscallError, trySyscall } from './syscalls.ts';

const read = promisify(readCallback);

const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
const {
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_NOCTTY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  O_WRONLY,
  S_IFMT,
  S_IFREG,
} = constants;

/** linux/openat2.h */
const RESOLVE_NO_XDEV = 0x01;
const RESOLVE_NO_MAGICLINKS = 0x02;
const RESOLVE_IN_ROOT = 0x10;

export interface InRootOptions {
  /** Refuse paths that lead onto another mount of the tree. */
  readonly stayOnMount?: boolean;
}

const codes: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'not_found',
  ENOTDIR: 'not_found',
  ELOOP: 'invalid_request',
  ENAMETOOLONG: 'invalid_request',
  EXDEV: 'invalid_request',
  EISDIR: 'invalid_request',
  ENOTEMPTY: 'invalid_request',
  EACCES: 'forbidden',
  EPERM: 'forbidden',
};

const sentences: Readonly<Record<string, string>> = {
  ENOENT: 'does not exist',
  ENOTDIR: 'does not exist: a part of its path is no directory',
  ELOOP: 'is a loop of symbolic links',
  ENAMETOOLONG: 'is too long',
  EXDEV: 'is on another file system',
  EISDIR: 'is a directory',
  ENOTEMPTY: 'is a directory',
};

function failed(call: string, result: number, path: string): CarrelError {
  const errno = errnoName(result);
  const code = codes[errno];
  if (code === undefined) return syscallError(call, result, path);
  return new CarrelError(code, `${path} ${sentences[errno] ?? `cannot be opened: ${errno}`}`, {
    details: { call, errno, object: path },
  });
}

/** struct open_how: u64 flags, mode, resolve. */
function openat2(directory: number, path: string, flags: number, options: InRootOptions, mode = 0): Fd {
  const how = BigUint64Array.of(
    BigInt(flags | O_CLOEXEC),
    BigInt(mode),
    BigInt(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (options.stayOnMount === true ? RESOLVE_NO_XDEV : 0)),
  );
  for (let attempt = 0; ; attempt += 1) {
    const fd = trySyscall('openat2', directory, cString(path === '' ? '.' : path), how, how.byteLength);
    if (fd >= 0) return ownFd(fd);
    // EAGAIN: a rename somewhere made `..` uncertain. Who keeps renaming does not keep us.
    if (errnoName(fd) !== 'EAGAIN' || attempt >= 20) throw failed('openat2', fd, path);
  }
}

function openRoot(root: string): Fd {
  try {
    return ownFd(openSync(root, O_PATH | O_DIRECTORY | O_CLOEXEC));
  } catch (cause) {
    if (errnoOf(cause) !== 'ENOENT' && errnoOf(cause) !== 'ESRCH') throw cause;
    throw new CarrelError('not_found', `${root} is gone`, { cause });
  }
}

export interface OpenInRootOptions extends InRootOptions {
  /** Flags of open(2): how to open, O_APPEND, O_TRUNC; with O_CREAT a file that is missing is made (0644). */
  readonly flags?: number;
}

/** Makes an empty file; undefined if something has that name already, be it a link that leads nowhere. */
function createInRoot(top: Fd, path: string, flags: number, options: InRootOptions): Fd | undefined {
  try {
    return openat2(top.fd, path, flags | O_CREAT | O_EXCL | O_NOCTTY, options, 0o644);
  } catch (error) {
    if (syscallErrno(error) === 'EEXIST') return undefined;
    throw error;
  }
}

/** Opens a regular file, for reading unless told otherwise; anything else is refused without being touched. */
export function openFileInRoot(
  root: string,
  path: string,
  { flags = O_RDONLY, ...options }: OpenInRootOptions = {},
): Fd {
  using top = openRoot(root);
  const created = (flags & O_CREAT) === 0 ? undefined : createInRoot(top, path, flags, options);
  if (created) return created;
  using handle = openat2(top.fd, path, O_PATH, options);
  const { mode } = fstatSync(handle.fd);
  if ((mode & S_IFMT) !== S_IFREG)
    throw new CarrelError('invalid_request', `${path} is no regular file`, { details: { object: path } });
  // non-blocking still matters: /proc/kmsg and its like call themselves regular files
  const again = (flags & ~O_CREAT) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
  return ownFd(openSync(`/proc/self/fd/${handle.fd}`, again));
}

/** The content of a regular file of at most `maxBytes`; `too_large` beyond, whatever its size claims to be. */
export async function readFileInRoot(
  root: string,
  path: string,
  { maxBytes, ...options }: InRootOptions & { maxBytes: number },
): Promise<Buffer> {
  using file = openFileInRoot(root, path, options);
  const chunks: Buffer[] = [];
  let length = 0;
  for (;;) {
    const chunk = Buffer.allocUnsafe(Math.min(65536, maxBytes + 1 - length));
    const { bytesRead } = await read(file.fd, chunk, 0, chunk.length, null);
    if (bytesRead === 0) return Buffer.concat(chunks);
    chunks.push(chunk.subarray(0, bytesRead));
    length += bytesRead;
    if (length > maxBytes)
      throw new CarrelError('too_large', `${path} is larger than ${maxBytes} bytes`, {
        details: { object: path },
      });
  }
}

export interface WriteInRootOptions extends InRootOptions {
  /** Permission bits. */
  readonly mode?: number;
  /** Owner as this process sees it; kept as it comes (ours) if absent. */
  readonly uid?: number;
  readonly gid?: number;
}

/**
 * Writes a file whole: a new file beside it, then rename. What was there before (a symlink, a FIFO, a device) is
 * replaced and never followed or opened; its directory must exist, and a directory is not replaced.
 */
export function writeFileInRoot(
  root: string,
  path: string,
  data: Uint8Array,
  { mode = 0o644, uid, gid, ...options }: WriteInRootOptions = {},
): void {
  const name = basename(path);
  if (name === '' || name === '.' || name === '..' || path.endsWith('/'))
    throw new CarrelError('invalid_request', `${JSON.stringify(path)} is no file name`);
  using top = openRoot(root);
  using directory = openat2(top.fd, dirname(path), O_PATH | O_DIRECTORY, options);
  const temporary = cString(`.carrel-${randomBytes(8).toString('hex')}`);
  const flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  const created = trySyscall('openat', directory.fd, temporary, flags, 0o600);
  if (created < 0) throw failed('openat', created, path);
  using file = ownFd(created);
  try {
    for (let at = 0; at < data.length;) at += writeSync(file.fd, data, at);
    if (uid !== undefined || gid !== undefined)
      check('fchown', trySyscall('fchown', file.fd, uid ?? -1, gid ?? -1));
    check('fchmod', trySyscall('fchmod', file.fd, mode & 0o7777));
    check('renameat', trySyscall('renameat', directory.fd, temporary, directory.fd, cString(name)));
  } catch (error) {
    trySyscall('unlinkat', directory.fd, temporary, 0);
    throw error;
  }
  function check(call: string, result: number): void {
    if (result < 0) throw failed(call, result, path);
  }
}

export interface EntryInRoot {
  readonly name: string;
  readonly type: 'file' | 'directory' | 'symlink' | 'other';
  readonly size: number;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly modifiedMs: number;
}

function typeOf(stat: {
  isFile(): boolean;
  isDirectory(): boolean;
  isSymbolicLink(): boolean;
}): EntryInRoot['type'] {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  return stat.isSymbolicLink() ? 'symlink' : 'other';
}

/** The entries of a directory, unsorted; at most `maxEntries`, and whether there are more. */
export async function listInRoot(
  root: string,
  path: string,
  { maxEntries = 10_000, ...options }: InRootOptions & { maxEntries?: number } = {},
): Promise<{ entries: EntryInRoot[]; more: boolean }> {
  using top = openRoot(root);
  using directory = openat2(top.fd, path, O_RDONLY | O_DIRECTORY | O_NONBLOCK, options);
  // the descriptor pins the directory; a name in it has no slash and lstat follows nothing
  const here = `/proc/self/fd/${directory.fd}`;
  const entries: EntryInRoot[] = [];
  for await (const { name } of await opendir(here)) {
    if (entries.length >= maxEntries) return { entries, more: true };
    try {
      const stat = await lstat(`${here}/${name}`);
      const { size, mode, uid, gid, mtimeMs } = stat;
      entries.push({ name, type: typeOf(stat), size, mode: mode & 0o7777, uid, gid, modifiedMs: mtimeMs });
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error; // removed meanwhile, or a name that is no UTF-8
    }
  }
  return { entries, more: false };
}

/** Is there a directory at `path`? */
export function isDirectoryInRoot(root: string, path: string, options: InRootOptions = {}): boolean {
  using top = openRoot(root);
  try {
    openat2(top.fd, path, O_PATH | O_DIRECTORY, options).close();
    return true;
  } catch (error) {
    if (error instanceof CarrelError && error.code === 'not_found') return false;
    throw error;
  }
}
