/**
 * The writable layer of a machine: its own, over an image that all share. Only files are made here; who
 * starts the machine mounts them (an overlay with the image as lower directory).
 */
import { access, chown, constants, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { exitStatusOf, runCommand } from './command.ts';
import type { Layout } from './layout.ts';
import { type Template, maxUpperBytes, minUpperBytes, openTemplate, writeFromTemplate } from './template.ts';

export type Upper =
  /** An ext4 file system with the directories `upper` and `work`; its size is the limit. */
  | { readonly kind: 'loop'; readonly imagePath: string; readonly bytes: number; readonly enforced: true }
  /** Directories `upper` and `work` below `path`; nothing limits them. */
  | { readonly kind: 'directory'; readonly path: string; readonly enforced: false };

export interface UpperRequest {
  /** The machine's directory, which exists. */
  readonly directory: string;
  /** How much the machine may write; rounded up to whole blocks. */
  readonly bytes: number;
  /** The host's uid and gid of the machine's root. */
  readonly uidBase: number;
}

export interface Cloner {
  /** Makes the layer; an earlier one of the machine is replaced. Takes some milliseconds. */
  prepareUpper(request: UpperRequest): Promise<Upper>;
}

const block = 4096;
/** Sizes whose templates are kept in memory. Each is some hundred KiB. */
const maxTemplates = 16;

/** Can this host attach loop devices to files of ours? */
async function loopWorks(): Promise<boolean> {
  if (process.geteuid?.() !== 0) return false;
  try {
    await access('/dev/loop-control', constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

async function prepareDirectory({ directory, uidBase }: UpperRequest): Promise<Upper> {
  const path = join(directory, 'upper');
  await rm(path, { recursive: true, force: true });
  await mkdir(path, { mode: 0o700 });
  for (const [name, mode] of [
    ['upper', 0o755],
    ['work', 0o700],
  ] as const) {
    await mkdir(join(path, name), { mode });
    if (process.geteuid?.() === 0) await chown(join(path, name), uidBase, uidBase);
  }
  return { kind: 'directory', path, enforced: false };
}

/** `loop` decides the kind; by default what the host can do. */
export function createCloner(layout: Layout, { loop }: { loop?: boolean } = {}): Cloner {
  const templates = new Map<number, Promise<Template>>();

  const templateOf = async (bytes: number): Promise<Template> => {
    const known = templates.get(bytes);
    if (known) return known;
    const made = openTemplate(layout, bytes);
    templates.set(bytes, made);
    const [oldest] = templates.keys();
    if (templates.size > maxTemplates && oldest !== undefined) templates.delete(oldest);
    try {
      return await made;
    } catch (error) {
      templates.delete(bytes);
      throw error;
    }
  };

  return {
    async prepareUpper(request) {
      const { bytes: wanted } = request;
      if (!Number.isSafeInteger(wanted) || wanted < minUpperBytes || wanted > maxUpperBytes)
        throw new CarrelError('validation_failed', `a machine's disk cannot have ${wanted} bytes`, {
          hint: `from ${formatSize(minUpperBytes)} to ${formatSize(maxUpperBytes)}`,
        });
      if (!(loop ?? (await loopWorks()))) return prepareDirectory(request);
      const bytes = Math.ceil(wanted / block) * block;
      const imagePath = join(request.directory, 'upper.img');
      await rm(imagePath, { force: true });
      const { uidBase } = request;
      await writeFromTemplate(await templateOf(bytes), imagePath, { uid: uidBase, gid: uidBase });
      return { kind: 'loop', imagePath, bytes, enforced: true };
    },
  };
}

/** Superblock: at 1024; s_state at 0x3a, bit 0: cleanly unmounted, bit 1: errors seen. */
const stateOffset = 1024 + 0x3a;

/**
 * Before mounting a layer again: `clean` (a look at one number), or `repaired` after e2fsck. Throws
 * `machine_lost` when e2fsck could not repair it. The file must not be mounted.
 */
export async function checkUpper(imagePath: string, { ms = 120_000 } = {}): Promise<'clean' | 'repaired'> {
  const state = Buffer.alloc(2);
  const file = await open(imagePath, 'r');
  try {
    await file.read(state, 0, 2, stateOffset);
  } finally {
    await file.close();
  }
  if (state.readUInt16LE(0) === 1) return 'clean';
  try {
    await runCommand(['e2fsck', '-f', '-y', imagePath], { ms });
  } catch (error) {
    // 1: errors were corrected (e2fsck(8)).
    if (exitStatusOf(error) === 1) return 'repaired';
    if (!isCarrelError(error, 'helper_failed')) throw error;
    throw new CarrelError('machine_lost', `the machine's disk ${imagePath} is damaged beyond repair`, {
      hint: 'reset the machine: its image is untouched',
      cause: error,
    });
  }
  return 'repaired';
}
