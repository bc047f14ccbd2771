/**
 * The cache of images, shared by all clouds of a host:
 *
 *     images/<hash>/rootfs/      the files (kind rootfs), or disk.qcow2 (kind disk), with kernel and initrd,
 *                                or guest.elf (kind guest)
 *     images/<hash>/image.json   what it is; written before the directory gets its name
 *     holds/<hash>/              who uses it: one file per user
 *     templates/                 empty file systems to copy (clone.ts)
 *     locks/, tmp/               one build at a time per recipe; what is being made
 *
 * An image is named by the hash of its content and never changes; its name and aliases may come to mean
 * another one, the newest.
 */
import { mkdir, readFile, readdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { CarrelError, errnoOf, isCarrelError } from '#base/errors.ts';
import { writeFileAtomic } from '#host/files.ts';
import { type ImageKind, imageKinds, imageName } from './recipe.ts';

const hexHash = z.string().regex(/^[0-9a-f]{64}$/);

/** As `src/vmm/modes` has them. */
export const guestModes = ['real', 'protected', 'paged', 'long'] as const;
export type GuestMode = (typeof guestModes)[number];

const record = z.strictObject({
  format: z.literal(1),
  name: imageName,
  aliases: z.array(imageName),
  description: z.string(),
  kind: z.enum(imageKinds),
  hash: hexHash,
  /** Of the recipe it was built from; null for an imported image. */
  recipeHash: hexHash.nullable(),
  bytes: z.int().nonnegative(),
  files: z.int().nonnegative(),
  /** Of a disk. */
  disk: z
    .strictObject({
      /** Length of the disk as a machine sees it; a machine's own may be longer, never shorter. */
      virtualBytes: z.int().positive(),
      /** Kernel command line for `kernel` and `initrd` beside the disk; null: the disk boots by itself only. */
      boot: z.strictObject({ append: z.string() }).nullable(),
      /** Carrel's agent is in it and answers on the port carrel.agent.0. */
      agent: z.boolean(),
    })
    .optional(),
  /** Of a guest: the mode of the processor that it was compiled for. */
  guest: z.strictObject({ mode: z.enum(guestModes) }).optional(),
  createdAt: z.iso.datetime(),
});

/** The content of image.json. */
export type ImageRecord = z.output<typeof record>;

export interface Image extends ImageRecord {
  /** images/<hash> */
  readonly directory: string;
  /** The root directory or the disk. */
  readonly path: string;
  /** Of a disk with its own kernel (`disk.boot`): an ELF kernel or bzImage, and its RAM disk. */
  readonly kernel?: string;
  readonly initrd?: string;
}

/** The name of the content in the image's directory. */
export const contentNames: Readonly<Record<ImageKind, string>> = {
  rootfs: 'rootfs',
  disk: 'disk.qcow2',
  guest: 'guest.elf',
};
/** Beside a disk that can be booted without a boot loader. */
export const bootNames = { kernel: 'kernel', initrd: 'initrd' } as const;

export interface Layout {
  readonly cache: string;
  readonly images: string;
  readonly holds: string;
  readonly templates: string;
  readonly locks: string;
  readonly tmp: string;
}

/** `CARREL_CACHE`, else /var/cache/carrel, else (without root) the user's own cache directory. */
export function defaultCache(env: NodeJS.ProcessEnv = process.env): string {
  const chosen = env['CARREL_CACHE'];
  if (chosen !== undefined && chosen !== '') return chosen;
  if (process.geteuid?.() === 0) return '/var/cache/carrel';
  return join(env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'carrel');
}

/** The cache's directories, made where missing. */
export async function openLayout(cache: string): Promise<Layout> {
  const layout = {
    cache,
    images: join(cache, 'images'),
    holds: join(cache, 'holds'),
    templates: join(cache, 'templates'),
    locks: join(cache, 'locks'),
    tmp: join(cache, 'tmp'),
  };
  await mkdir(cache, { recursive: true, mode: 0o755 });
  // Nobody but the owner: an image may hold setuid programs with old faults.
  for (const directory of [layout.images, layout.holds, layout.templates, layout.locks, layout.tmp])
    await mkdir(directory, { recursive: true, mode: 0o700 });
  return layout;
}

/** The image in images/<hash>, or undefined when there is none (or not yet). */
export async function readImage({ images }: Layout, hash: string): Promise<Image | undefined> {
  if (!hexHash.safeParse(hash).success) return undefined;
  const directory = join(images, hash);
  let text: string;
  try {
    text = await readFile(join(directory, 'image.json'), 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  let data: unknown;
  try {
    data = JSON.parse(text);
  } catch {
    data = undefined;
  }
  const result = record.safeParse(data);
  if (!result.success || result.data.hash !== hash)
    throw new CarrelError('internal', `${join(directory, 'image.json')} is damaged`, {
      hint: 'remove that directory and build the image again',
    });
  const { kind, disk } = result.data;
  const boot = disk?.boot
    ? { kernel: join(directory, bootNames.kernel), initrd: join(directory, bootNames.initrd) }
    : {};
  return { ...result.data, directory, path: join(directory, contentNames[kind]), ...boot };
}

/** All images, newest first. A damaged one is left out: it must not take the others along. */
export async function readImages(layout: Layout): Promise<Image[]> {
  const images: Image[] = [];
  for (const hash of await readdir(layout.images))
    try {
      const image = await readImage(layout, hash);
      if (image) images.push(image);
    } catch (error) {
      if (!isCarrelError(error, 'internal')) throw error;
    }
  return images.sort((left, right) => right.createdAt.localeCompare(left.createdAt));
}

/** Writes image.json of an image directory, whole or not at all. */
export async function writeRecord(directory: string, image: ImageRecord): Promise<void> {
  await writeFileAtomic(join(directory, 'image.json'), `${JSON.stringify(record.parse(image), null, 2)}\n`);
}

/** A complete sha256 in hex? */
export function isHash(text: string): boolean {
  return hexHash.safeParse(text).success;
}
