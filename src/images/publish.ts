/** The one way an image comes into the cache: made elsewhere, hashed, made durable, then renamed. */
import { chmod, mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { runCommand } from './command.ts';
import {
  type Image,
  type ImageRecord,
  type Layout,
  bootNames,
  contentNames,
  readImage,
  writeRecord,
} from './layout.ts';
import { type TreeSummary, hashFiles, hashTree } from './tree.ts';

/** What the maker knows; the rest is measured. */
export interface Described extends Pick<
  ImageRecord,
  'name' | 'aliases' | 'description' | 'kind' | 'recipeHash'
> {
  disk?: NonNullable<ImageRecord['disk']>;
  guest?: NonNullable<ImageRecord['guest']>;
}

/** The place of what will be the image inside a workspace. */
export async function stageImage(workspace: string): Promise<string> {
  const staged = join(workspace, 'image');
  await mkdir(staged, { recursive: true, mode: 0o700 });
  return staged;
}

/** The place for the content of a root file system inside a workspace: an empty root directory. */
export async function stageRoot(workspace: string): Promise<string> {
  const root = join(await stageImage(workspace), contentNames.rootfs);
  await mkdir(root, { mode: 0o700 });
  await chmod(root, 0o755);
  return root;
}

/** What an image is named by: its tree with owners, its disk with the kernel and RAM disk beside it, or its program. */
export async function hashContent(
  directory: string,
  { kind, disk }: Pick<ImageRecord, 'kind' | 'disk'>,
): Promise<TreeSummary> {
  if (kind === 'rootfs') return hashTree(join(directory, contentNames.rootfs), { owners: true });
  if (kind === 'guest') return hashFiles(directory, [contentNames.guest]);
  return hashFiles(directory, [contentNames.disk, ...(disk?.boot ? Object.values(bootNames) : [])]);
}

async function makeDurable(directory: string, signal: AbortSignal | undefined): Promise<void> {
  // One syncfs(2) for thousands of files, before the rename makes them an image.
  await runCommand(['sync', '--file-system', directory], { ms: 300_000, signal });
}

/** One content has one name: a second one would vanish, or take the image along, when the other is removed. */
function refuseOtherName(there: ImageRecord, { name }: Described): void {
  if (there.name === name) return;
  throw new CarrelError('name_taken', `the image that would be ${name} is here already, as ${there.name}`, {
    hint: `use ${there.name}, or remove it first: carrel image rm ${there.name}`,
  });
}

/**
 * Turns `workspace/image` (see `stageImage`) into `images/<hash>`. An equal image that is there already under this
 * name stays; under another one it is `name_taken`.
 */
export async function publish(
  layout: Layout,
  workspace: string,
  described: Described,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<Image> {
  const staged = join(workspace, 'image');
  const { hash, files, bytes } = await hashContent(staged, described);
  const made: ImageRecord = {
    format: 1,
    ...described,
    hash,
    files,
    bytes,
    createdAt: new Date().toISOString(),
  };
  await writeRecord(staged, made);
  signal?.throwIfAborted();
  const place = join(layout.images, hash);
  if (!(await readImage(layout, hash))) {
    await makeDurable(staged, signal);
    try {
      await rename(staged, place);
    } catch (error) {
      if (errnoOf(error) !== 'ENOTEMPTY' && errnoOf(error) !== 'EEXIST') throw error;
    }
  }
  const there = await readImage(layout, hash);
  if (!there) throw new CarrelError('internal', `image ${hash} was removed while it was being made`);
  refuseOtherName(there, described);
  // The same content, newly described.
  if (there.createdAt !== made.createdAt) await writeRecord(place, made);
  return (await readImage(layout, hash)) ?? there;
}
