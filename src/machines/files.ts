/**
 * Files of a running machine, reached from outside through /proc/<init>/root.
 *
 * The tree belongs to a student who is root in it, so every step assumes malice: the path is resolved by the
 * kernel inside that root (openat2(2), RESOLVE_IN_ROOT), magic links are refused, the object is first opened
 * with O_PATH (which touches no device and waits for no FIFO) and must be a regular file on a file system
 * that holds files: through the machine's own /proc or /sys our privileges would reach the host.
 */
import { constants } from 'node:fs';
import { open, rm, stat, statfs, type FileHandle } from 'node:fs/promises';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { cString, syscall, syscallErrno, syscallError, trySyscall } from '#host/syscalls.ts';
import type { FileRead } from './driver.ts';

const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
const { O_DIRECTORY, O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, S_IFMT, S_IFREG, S_IFDIR } =
  constants;
/** openat2(2) */
const RESOLVE_NO_MAGICLINKS = 0x02;
const RESOLVE_IN_ROOT = 0x10;

/** Magic numbers of file systems that hold files (statfs(2)): ext4, btrfs, xfs, tmpfs, overlay. */
const storage = new Set([0xef53, 0x9123683e, 0x58465342, 0x01021994, 0x794c7630]);

/** The root directory of a process. Held only for the length of one access. */
function rootOf(pid: number): Fd {
  const fd = trySyscall('openat', -100, cString(`/proc/${pid}/root`), O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0)
    throw new CarrelError('wrong_state', 'the machine stopped just now', {
      hint: 'start it first',
      cause: syscallError('openat', fd, `/proc/${pid}/root`),
    });
  return ownFd(fd);
}

/** Opens in the machine's root; undefined when there is nothing of that name. */
function openInside(root: Fd, path: string, flags: number, mode = 0): Fd | undefined {
  const how = new DataView(new ArrayBuffer(24));
  how.setBigUint64(0, BigInt(flags | O_CLOEXEC), true);
  how.setBigUint64(8, BigInt(mode), true);
  how.setBigUint64(16, BigInt(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS), true);
  const fd = trySyscall('openat2', root.fd, cString(path), how, how.byteLength);
  if (fd >= 0) return ownFd(fd);
  const error = syscallError('openat2', fd, path);
  switch (syscallErrno(error) ?? '') {
    case 'ENOENT':
      return undefined;
    case 'ENOTDIR':
      throw new CarrelError('invalid_request', `a part of ${path} is not a directory`);
    case 'ELOOP':
      throw new CarrelError('invalid_request', `${path} goes through too many or special links`);
    case 'EEXIST': // O_EXCL: there was nothing at the end of the link a moment ago
      throw new CarrelError('invalid_request', `${path} is a link that leads nowhere`);
    case 'ENAMETOOLONG':
      throw new CarrelError('invalid_request', `a part of the path is too long`);
    case 'EROFS':
    case 'EACCES':
    case 'EPERM':
      throw new CarrelError('forbidden', `${path} cannot be written in this machine`);
    default:
      throw error;
  }
}

/** A second, real descriptor for what an O_PATH descriptor names (proc_pid_fd(5)). */
function self(fd: Fd): string {
  return `/proc/self/fd/${fd.fd}`;
}

/** Refuses all but a regular file on a file system that holds files. */
async function requireRegular(found: Fd, path: string): Promise<void> {
  const kind = (await stat(self(found))).mode & S_IFMT; // follows the one magic link that we made
  if (kind === S_IFDIR) throw new CarrelError('invalid_request', `${path} is a directory`);
  if (kind !== S_IFREG) throw new CarrelError('invalid_request', `${path} is not a regular file`);
  await requireStorage(found, path);
}

async function requireStorage(found: Fd, path: string): Promise<void> {
  if (!storage.has((await statfs(self(found))).type))
    throw new CarrelError('forbidden', `${path} is not on a disk of the machine`, {
      hint: 'use run for files that the kernel makes, such as those in /proc and /sys',
    });
}

/** Reads a file; `too_large` when it has more than `maxBytes`. */
export async function readInside(
  pid: number,
  path: string,
  { maxBytes }: { maxBytes: number },
): Promise<FileRead> {
  using root = rootOf(pid);
  using found = openInside(root, path, O_PATH);
  if (!found) throw new CarrelError('not_found', `there is no file ${path} in the machine`);
  await requireRegular(found, path);
  await using file = await open(self(found), O_RDONLY | O_NONBLOCK);
  const { size, mode } = await file.stat();
  if (size > maxBytes) throw tooLarge(path, maxBytes);
  return { bytes: await readAll(file, path, { size, maxBytes }), mode: mode & 0o7777 };
}

/** Up to the end, even if the file grows meanwhile, but never beyond the limit. */
async function readAll(
  file: FileHandle,
  path: string,
  { size, maxBytes }: { size: number; maxBytes: number },
): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let total = 0;
  for (;;) {
    const chunk = Buffer.allocUnsafe(Math.min(Math.max(size - total, 0) + 1, 2 ** 20));
    const { bytesRead } = await file.read(chunk, 0, chunk.length, total);
    if (bytesRead === 0) return Buffer.concat(chunks);
    chunks.push(chunk.subarray(0, bytesRead));
    total += bytesRead;
    if (total > maxBytes) throw tooLarge(path, maxBytes);
  }
}

function tooLarge(path: string, maxBytes: number): CarrelError {
  return new CarrelError('too_large', `${path} is larger than ${formatSize(maxBytes)}`, {
    details: { maxBytes },
  });
}

/**
 * Writes a file. One that exists is overwritten in place and keeps its owner; a new one belongs to `owner`
 * (the machine's root as the host sees it). A disk that is too full is noticed before anything is changed.
 */
export async function writeInside(
  pid: number,
  path: string,
  bytes: Uint8Array,
  { mode, owner }: { mode: number; owner: number },
): Promise<void> {
  using root = rootOf(pid);
  using existing = openInside(root, path, O_PATH);
  if (existing) {
    await requireRegular(existing, path);
    await using file = await open(self(existing), O_WRONLY | O_NONBLOCK);
    const { size } = await file.stat();
    await requireRoom(existing, path, bytes.length - size);
    await file.truncate(0);
    await writeAll(file, bytes, path);
    await file.chmod(mode);
    return;
  }
  const { directory, base } = splitPath(path);
  using parent = openInside(root, directory, O_PATH | O_DIRECTORY);
  if (!parent) throw new CarrelError('not_found', `there is no directory ${directory} in the machine`);
  await requireStorage(parent, path);
  await requireRoom(parent, path, bytes.length);
  const created = openInside(parent, base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  if (!created) throw new CarrelError('not_found', `the directory of ${path} is gone`);
  try {
    syscall('fchown', created.fd, owner, owner);
    await using file = await open(self(created), O_WRONLY | O_NONBLOCK);
    await writeAll(file, bytes, path);
    await file.chmod(mode);
  } catch (error) {
    await rm(`${self(parent)}/${base}`, { force: true });
    throw error;
  } finally {
    created.close();
  }
}

/** Makes a directory; false if there is something of that name already, which stays as it is. */
export async function makeDirectoryInside(
  pid: number,
  path: string,
  { mode, owner }: { mode: number; owner: number },
): Promise<boolean> {
  using root = rootOf(pid);
  const { directory, base } = splitPath(path);
  using parent = openInside(root, directory, O_PATH | O_DIRECTORY);
  if (!parent) throw new CarrelError('not_found', `there is no directory ${directory} in the machine`);
  await requireStorage(parent, path);
  const made = trySyscall('mkdirat', parent.fd, cString(base), mode);
  if (made < 0) {
    const error = syscallError('mkdirat', made, path);
    if (syscallErrno(error) === 'EEXIST') return false;
    throw syscallErrno(error) === 'ENOSPC' ? full(path, error) : error;
  }
  // whatever has that name by now: not through a link, and only if it is a directory
  using found = openInside(parent, base, O_DIRECTORY | O_NOFOLLOW);
  if (found) syscall('fchown', found.fd, owner, owner);
  return true;
}

async function writeAll(file: FileHandle, bytes: Uint8Array, path: string): Promise<void> {
  try {
    for (let at = 0; at < bytes.length;)
      at += (await file.write(bytes, at, Math.min(bytes.length - at, 2 ** 20), at)).bytesWritten;
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && (cause.code === 'ENOSPC' || cause.code === 'EDQUOT'))
      throw full(path, cause);
    throw cause;
  }
}

async function requireRoom(place: Fd, path: string, more: number): Promise<void> {
  const { bavail, bsize } = await statfs(self(place));
  if (more > bavail * bsize) throw full(path);
}

function full(path: string, cause?: unknown): CarrelError {
  return new CarrelError('disk_full', `the machine's disk has no room for ${path}`, {
    hint: 'remove files in the machine, or make one with a larger disk',
    cause,
  });
}

/** `/a/b/c` -> `/a/b` and `c`; the last part must be a name. */
function splitPath(path: string): { directory: string; base: string } {
  const slash = path.lastIndexOf('/');
  const base = path.slice(slash + 1);
  if (base === '' || base === '.' || base === '..')
    throw new CarrelError('invalid_request', `${path} does not name a file`);
  return { directory: slash <= 0 ? '/' : path.slice(0, slash), base };
}
