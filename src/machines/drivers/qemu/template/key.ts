/**
 * The name of a template says everything that its parked state depends on: state can only be loaded by the same
 * program with the same devices, memory and processors, over the same disk. Whatever changes gives another name,
 * so a template that does not fit is never found, rather than found and tried.
 */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';

export interface KeyFacts {
  /** The QEMU that runs it. */
  readonly program: string;
  /** Its arguments, with the same words for what differs from machine to machine (directories, addresses). */
  readonly argv: readonly string[];
  /** Content hash of the image: disk, kernel and initrd. */
  readonly image: string;
  /** The host's processor by its name: a parked kernel has found out what it can do, and how fast its counter counts. */
  readonly processor: string;
  /** What is put into a machine before its first start by us: another agent or init needs another boot. */
  readonly seed: number;
}

/** A key: 32 hexadecimal digits. */
export const keyPattern = /^[0-9a-f]{32}$/;

/** Layout of a template's files; another one, another name. */
const format = 1;

/**
 * The program counts by size and time of its file: an upgrade changes both, and reading 20 MiB for a hash at each
 * start of a machine would cost more than the start.
 */
export async function templateKey({ program, argv, image, processor, seed }: KeyFacts): Promise<string> {
  const { size, mtimeMs, ino } = await stat(program);
  const text = JSON.stringify([format, program, size, mtimeMs, ino, argv, image, processor, seed]);
  return createHash('sha256').update(text).digest('hex').slice(0, 32);
}
