/**
 * `qemu-img convert` on files that may come from anybody: as nobody, without capabilities, network or a way out
 * of its directory, with limits on memory, time and what it writes. Formats are stated; nothing below the input
 * is opened.
 */
import { constants } from 'node:fs';
import { chown, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, errnoOf, isCarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { exitStatusOf } from '../command.ts';
import { runQemuImg } from './confined.ts';

export type DiskFormat = 'qcow2' | 'raw';

export interface ConvertRequest {
  /** Holds the input and gets the output: nothing else that matters, for it is given away. */
  readonly directory: string;
  readonly from: { readonly name: string; readonly format: DiskFormat };
  readonly to: { readonly name: string; readonly format: DiskFormat };
  /** Most bytes of the output file. */
  readonly fileBytes: number;
  readonly signal?: AbortSignal | undefined;
}

/** nobody and nogroup (Debian policy 9.2.2). */
const nobody = 65_534;
/** The options of qemu-img(1) for a file that is exactly what is said; no other file is looked for behind it. */
function source({ name, format }: ConvertRequest['from']): string {
  const backing = format === 'qcow2' ? ',backing=' : '';
  return `driver=${format},file.driver=file,file.filename=${name}${backing}`;
}

/** Converts; the output belongs to this process again when it returns. */
export async function convertDisk({ directory, from, to, fileBytes, signal }: ConvertRequest): Promise<void> {
  const output = join(directory, to.name);
  const asRoot = process.geteuid?.() === 0;
  await writeFile(output, '', { flag: 'wx', mode: 0o600 });
  if (asRoot)
    for (const path of [directory, join(directory, from.name), output]) await chown(path, nobody, nobody);
  try {
    await runQemuImg(['convert', '--image-opts', source(from), '-O', to.format, to.name], {
      directory,
      uid: nobody,
      fileBytes,
      signal,
    });
  } catch (error) {
    throw explain(error, fileBytes);
  }
  if (asRoot) await chown(directory, 0, 0);
  await takeBack(output, asRoot);
}

function notAFile(cause?: unknown): CarrelError {
  return new CarrelError('helper_failed', 'qemu-img left something else than a file', { cause });
}

/**
 * Who takes qemu-img over may put anything in the place of its output: what a link leads to must not be taken for it,
 * nor be given a new owner and everybody's reading.
 */
async function takeBack(output: string, asRoot: boolean): Promise<void> {
  const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
  await using file = await open(output, O_RDONLY | O_NOFOLLOW | O_NONBLOCK).catch((error: unknown) => {
    throw errnoOf(error) === 'ELOOP' ? notAFile(error) : error;
  });
  const stat = await file.stat();
  if (!stat.isFile() || stat.nlink !== 1) throw notAFile();
  if (asRoot) await file.chown(0, 0);
  await file.chmod(0o644);
}

function explain(error: unknown, fileBytes: number): unknown {
  const status = exitStatusOf(error);
  if (status === 127)
    return new CarrelError('host_unsupported', 'qemu-img is not installed on this host', {
      hint: 'apt-get install qemu-utils',
      cause: error,
    });
  if (!isCarrelError(error, 'helper_failed')) return error;
  // SIGXFSZ, or EFBIG where the signal is ignored.
  if (/SIGXFSZ|File too large|with 153/.test(JSON.stringify(error.details)))
    return new CarrelError('too_large', `The disk holds more than ${formatSize(fileBytes)}`, {
      cause: error,
    });
  return new CarrelError('validation_failed', `The disk cannot be read: ${error.message}`, { cause: error });
}
