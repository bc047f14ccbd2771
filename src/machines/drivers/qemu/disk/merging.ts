/**
 * When layers are merged (merge.ts): in the background, after a machine has stopped or a snapshot is forgotten, and for a
 * moment before a machine starts over too many. Nobody waits for it: it is broken off as soon as somebody wants the
 * disk, and begun again another time. One that fails is told to the log, and not tried again at once: merge.json in the
 * machine's directory says when it has failed, how often, and why.
 *
 * The background takes the disk's lock before whoever asked for it goes on, and does not come back once it has let go: a
 * start that has looked at the layers finds them so until QEMU has opened them.
 */
import { readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { pauseAfter } from '#base/backoff.ts';
import { CarrelError, errnoOf, type ErrorCode, isCarrelError, messageOf } from '#base/errors.ts';
import type { Logger } from '#base/log.ts';
import { writeFileAtomic } from '#host/files.ts';
import type { FileLock } from '#host/flock.ts';
import type { DiskFiles } from './files.ts';
import { isWanted, locked, lockIfFree } from './lock.ts';
import { hasMergeable, mergeLayers } from './merge.ts';

/** A start waits no longer. */
const startMs = 30_000;
/** How long somebody who wants the disk goes unnoticed. */
const lookMs = 50;
/** After a failure; twice as long after each further one. */
export const pauses = { firstMs: 5 * 60_000, longestMs: 24 * 60 * 60_000 } as const;

const failures = z.strictObject({
  count: z.int().positive(),
  at: z.iso.datetime(),
  code: z.string(),
  reason: z.string(),
});
type Failures = z.output<typeof failures>;

export interface MergingOptions {
  readonly log: Logger;
  readonly now?: () => number;
}

export interface Merging {
  /** Before a start: where the written layer lies on more than `longest`, and for a moment only. */
  before(files: DiskFiles, options: { readonly longest: number }): Promise<void>;
  /**
   * What can be, in the background. `asked`: somebody has just made room for it, or less to do: it is tried even if it
   * has failed a moment ago.
   */
  later(files: DiskFiles, options?: { readonly asked?: boolean }): Promise<void>;
  /** Breaks off what goes on in the background, and resolves when it has. */
  close(): Promise<void>;
}

const noteOf = (directory: string): string => join(directory, 'merge.json');

/** How merging of the disk in this directory has failed; undefined when the last time it did not. */
async function failuresOf(directory: string): Promise<Failures | undefined> {
  try {
    return failures.safeParse(JSON.parse(await readFile(noteOf(directory), 'utf8'))).data;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

const tooLate: ErrorCode = 'deadline_exceeded';
/** Somebody else's wish, which is no failure. */
const brokenOff = new CarrelError('cancelled', 'the merging of layers was broken off');

export function createMerging({ log, now = Date.now }: MergingOptions): Merging {
  const closing = new AbortController();
  /** Those of the background: one after the other, or the host's disk would have much to do. */
  const underWay = new Set<Promise<void>>();
  let last = Promise.resolve();

  const isDue = async (directory: string, { hurry }: { readonly hurry: boolean }): Promise<boolean> => {
    const failed = await failuresOf(directory);
    // what takes too long for a start does not for the background
    if (!failed || (!hurry && failed.code === tooLate)) return true;
    return now() - Date.parse(failed.at) >= pauseAfter(failed.count, pauses);
  };

  const attempt = async (
    files: DiskFiles,
    lock: FileLock,
    { signal, longest }: { readonly signal: AbortSignal; readonly longest?: number },
  ): Promise<void> => {
    const { directory } = files;
    const machine = basename(directory);
    try {
      const layers = await mergeLayers(files, lock, { longest, signal });
      if (layers === 0) return;
      log.info('layers of a disk were merged', { machine, layers });
      await rm(noteOf(directory), { force: true });
    } catch (error) {
      if (error === brokenOff) {
        log.debug('the merging of layers was broken off: the disk is wanted', { machine });
        return;
      }
      const reason = messageOf(error);
      const count = ((await failuresOf(directory))?.count ?? 0) + 1;
      log.warn('layers of a disk could not be merged, and stay as they are', {
        machine,
        reason,
        count,
        again: new Date(now() + pauseAfter(count, pauses)).toISOString(),
      });
      const code = isCarrelError(error) ? error.code : 'internal';
      const note: Failures = { count, at: new Date(now()).toISOString(), code, reason };
      await writeFileAtomic(noteOf(directory), `${JSON.stringify(failures.parse(note))}\n`);
    }
  };

  const inBackground = async (files: DiskFiles, lock: FileLock, turn: Promise<void>): Promise<void> => {
    using held = lock;
    using watch = watchWishes(files.directory, closing.signal);
    const { signal } = watch;
    await Promise.race([turn, aborted(signal)]);
    if (!signal.aborted) await attempt(files, held, { signal });
  };

  return {
    async before(files, { longest }) {
      const { directory } = files;
      if (!(await hasMergeable(files)) || !(await isDue(directory, { hurry: true }))) return;
      await locked(directory, async (lock) => {
        using watch = watchWishes(directory, closing.signal, startMs);
        await attempt(files, lock, { signal: watch.signal, longest });
      });
    },
    async later(files, { asked = false } = {}) {
      const { directory } = files;
      if (
        closing.signal.aborted ||
        !(await hasMergeable(files)) ||
        !(asked || (await isDue(directory, { hurry: false })))
      )
        return;
      const lock = lockIfFree(directory);
      if (!lock) return; // who has it does not leave less to do
      const work = inBackground(files, lock, last).catch((error: unknown) => {
        // the directory is gone, or the host's disk is so full that not even this can be written down
        log.warn('the failure of a merge could not be noted', {
          machine: basename(directory),
          error: messageOf(error),
        });
      });
      last = Promise.all([last, work]).then(() => undefined);
      underWay.add(work);
      void work.finally(() => underWay.delete(work));
    },
    async close() {
      closing.abort(brokenOff);
      await Promise.all(underWay);
    },
  };
}

/** A signal that is given when somebody wants the disk, when all are to end, and when the time is over. */
function watchWishes(
  directory: string,
  closing: AbortSignal,
  ms?: number,
): { readonly signal: AbortSignal } & Disposable {
  const own = new AbortController();
  const look = setInterval(() => {
    if (isWanted(directory)) own.abort(brokenOff);
  }, lookMs);
  const late = new CarrelError(tooLate, `it took longer than ${startMs} ms, and a start waited for it`);
  const limit = ms === undefined ? undefined : setTimeout(() => own.abort(late), ms);
  return {
    signal: AbortSignal.any([own.signal, closing]),
    [Symbol.dispose]() {
      clearInterval(look);
      clearTimeout(limit);
    },
  };
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
