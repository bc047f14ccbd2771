/** A guest of the hypervisor as an image: an ELF program, and the mode that it was compiled for, as its format says. */
import { chmod, open, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { Chunks } from './archive/bytes.ts';
import { receiveFile } from './disk/receive.ts';
import { contentNames, type GuestMode, guestModes, type Image, type Layout } from './layout.ts';
import { type Described, publish, stageImage } from './publish.ts';
import { openWorkspace } from './workspace.ts';

/** A guest has 2 MiB of memory; what a compiler tells a debugger comes on top. */
const mostBytes = 8 * 2 ** 20;
const elfMagic = Buffer.from([0x7f, 0x45, 0x4c, 0x46]);

export type GuestFormat = `guest-${GuestMode}`;
export const guestFormats: readonly GuestFormat[] = guestModes.map((mode) => `guest-${mode}` as const);

export const isGuestFormat = (format: string): format is GuestFormat =>
  guestFormats.some((each) => each === format);

/** The mode that a format is for. */
export function modeOfFormat(format: GuestFormat): GuestMode {
  const mode = guestModes.find((each) => format === `guest-${each}`);
  if (!mode) throw new CarrelError('internal', `no mode for ${format}`);
  return mode;
}

export interface GuestImport {
  readonly described: Omit<Described, 'kind' | 'recipeHash' | 'disk' | 'guest'>;
  readonly mode: GuestMode;
  readonly source: Chunks;
  readonly sha256: string | undefined;
  readonly signal: AbortSignal | undefined;
}

async function isElf(path: string): Promise<boolean> {
  await using file = await open(path);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(elfMagic.length));
  return bytesRead === elfMagic.length && buffer.equals(elfMagic);
}

/** Imports a program. What it holds is looked at by whoever runs it, in a process of its own. */
export async function importGuest(
  layout: Layout,
  { described, mode, source, sha256, signal }: GuestImport,
): Promise<Image> {
  await using workspace = await openWorkspace(layout.tmp, 'import');
  const received = join(workspace.directory, 'received');
  await receiveFile(received, source, {
    limits: { fileBytes: mostBytes, storedBytes: mostBytes },
    sha256,
    signal,
  });
  if (!(await isElf(received)))
    throw new CarrelError('validation_failed', 'a guest is an ELF program', {
      hint: 'carrel image import compiles C and assembly itself, with the kit in guests/',
    });
  await chmod(received, 0o644); // who runs it has an id of its own
  const staged = await stageImage(workspace.directory);
  await rename(received, join(staged, contentNames.guest));
  const made: Described = { ...described, kind: 'guest', recipeHash: null, guest: { mode } };
  // Awaited here: the workspace goes when this function is left.
  return await publish(layout, workspace.directory, made, { signal });
}
