/** Files that are either the old or the new version, whatever happens in between. */
import { randomBytes } from 'node:crypto';
import { chmod, open, rename, rm } from 'node:fs/promises';
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

function temporaryName(path: string): string {
  return `${path}.${randomBytes(6).toString('hex')}.tmp`;
}

/**
 * Writes a file so that a reader, and a reader after a power cut, finds the old or the new content whole:
 * temporary file in the same directory, fsync, rename, fsync of the directory. Nothing is left on failure.
 */
export async function writeFileAtomic(
  path: string,
  data: string | Uint8Array,
  { mode = 0o600 } = {},
): Promise<void> {
  const temporary = temporaryName(path);
  try {
    const file = await open(temporary, 'wx', mode);
    try {
      await file.writeFile(data);
      await chmod(temporary, mode); // the umask must not decide
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  const directory = await open(dirname(path), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** The same for the few places that must not yield; small files only. */
export function writeFileAtomicSync(path: string, data: string, { mode = 0o600 } = {}): void {
  const temporary = temporaryName(path);
  const sync = (name: string, flags: string, content?: string): void => {
    const fd = openSync(name, flags, mode);
    try {
      if (content !== undefined) writeSync(fd, content);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  };
  try {
    sync(temporary, 'wx', data);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
  sync(dirname(path), 'r');
}
