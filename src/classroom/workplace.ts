/**
 * Where submissions are laid out to be graded: a directory for each process below DIR/run/grading, held by a
 * lock. A process that is killed leaves its directory; the next one to start finds the lock free and removes it.
 */
import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { tryLock, type FileLock } from '#host/flock.ts';
import { removeTree } from '#host/trees.ts';
import type { BlobStore } from '#images/blobs.ts';
import type { SubmittedFile } from '#store/submissions.ts';

export interface Workplace {
  /** For the grader's own scratch files. */
  readonly directory: string;
  /** The files of a submission in a fresh directory, removed after `work`. */
  withFiles<T>(files: readonly SubmittedFile[], work: (directory: string) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

async function sweep(base: string): Promise<void> {
  const names = new Set((await readdir(base)).map((name) => name.replace(/\.lock$/, '')));
  for (const name of names) {
    const lock = tryLock(join(base, `${name}.lock`));
    if (!lock) continue;
    await removeTree(join(base, name));
    await rm(join(base, `${name}.lock`), { force: true });
    lock.release();
  }
}

/** Opens a workplace below `base`, and removes those of processes that are gone. */
export async function openWorkplace({
  base,
  blobs,
}: {
  readonly base: string;
  readonly blobs: BlobStore;
}): Promise<Workplace> {
  await mkdir(base, { recursive: true, mode: 0o700 });
  await sweep(base);
  const name = randomBytes(6).toString('hex');
  // The lock comes first: a directory without one is removed by whoever starts next.
  const lock: FileLock | undefined = tryLock(join(base, `${name}.lock`));
  const directory = join(base, name);
  await mkdir(directory, { mode: 0o700 });

  return {
    directory,
    async withFiles(files, work) {
      const place = join(directory, randomBytes(6).toString('hex'));
      await mkdir(place, { mode: 0o700 });
      try {
        for (const { path, hash } of files) {
          const to = join(place, path);
          await mkdir(dirname(to), { recursive: true });
          await copyFile(blobs.path(hash), to);
        }
        return await work(place);
      } finally {
        await removeTree(place);
      }
    },
    async close() {
      await removeTree(directory);
      await rm(join(base, `${name}.lock`), { force: true });
      lock?.release();
    },
  };
}
