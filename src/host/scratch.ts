/**
 * A directory for temporary files that does not outlive its process for long. Its owner has it locked (flock(2)), which
 * ends with the owner, even by SIGKILL; whoever makes the next one of that name removes those that nobody has locked.
 */
import { constants, fstatSync, lstatSync, openSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { errnoOf } from '#base/errors.ts';
import { type Fd, ownFd } from './fds.ts';
import { trySyscall } from './syscalls.ts';

const LOCK_EX_NB = 2 | 4;
const flags = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW;
/** What mkdtemp(3) puts behind a name. */
const suffix = /^-\w{6}$/;

export interface Scratch extends AsyncDisposable {
  /** Empty at first, and open to nobody else (mode 0700). Removed, with all that is in it, in the end. */
  readonly directory: string;
}

/** Locks a directory of ours; undefined: somebody has it, or it is not there, or it is another account's. */
function lockDirectory(path: string): Fd | undefined {
  let locked: Fd;
  try {
    locked = ownFd(openSync(path, flags));
  } catch (error) {
    if (['ENOENT', 'ENOTDIR', 'ELOOP', 'EACCES'].includes(errnoOf(error) ?? '')) return undefined;
    throw error;
  }
  const isOurs = fstatSync(locked.fd).uid === process.geteuid?.();
  if (isOurs && trySyscall('flock', locked.fd, LOCK_EX_NB) === 0) return locked;
  locked.close();
  return undefined;
}

/** Was it removed between its making and its lock? */
function isThere(path: string, { fd }: Fd): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false });
  return found !== undefined && found.ino === fstatSync(fd).ino;
}

/** Removes what others of this name left. A program that they started may write there yet: the next one tries again. */
async function sweep(name: string): Promise<void> {
  const parent = tmpdir();
  for (const entry of await readdir(parent)) {
    if (!entry.startsWith(name) || !suffix.test(entry.slice(name.length))) continue;
    const path = join(parent, entry);
    using lock = lockDirectory(path);
    if (lock) await rm(path, { recursive: true, force: true }).catch(() => undefined);
  }
}

/**
 * `NAME-xxxxxx` in the directory for temporary files (TMPDIR).
 *
 * @example
 * await using scratch = await openScratch('carrel-guest');
 * await writeFile(join(scratch.directory, 'a.c'), text);
 */
export async function openScratch(name: string): Promise<Scratch> {
  await sweep(name);
  for (;;) {
    const directory = await mkdtemp(join(tmpdir(), `${name}-`));
    const lock = lockDirectory(directory);
    if (lock && isThere(directory, lock))
      return {
        directory,
        async [Symbol.asyncDispose]() {
          using _lock = lock;
          await rm(directory, { recursive: true, force: true });
        },
      };
    // another process took it for a leftover before we had it locked
    lock?.close();
  }
}
