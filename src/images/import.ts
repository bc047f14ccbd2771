/**
 * What was made elsewhere becomes an image. A root file system is unpacked under limits; a disk is written anew
 * (disk/import.ts). Then it is published like a built one.
 */
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { Chunks } from './archive/bytes.ts';
import { decompress } from './archive/decompress.ts';
import { type ArchiveLimits, Meter, imageLimits } from './archive/limits.ts';
import { tarCompression } from './archive/read.ts';
import { readTar } from './archive/tar.ts';
import type { BuildProgress } from './build.ts';
import { importDisk } from './disk/import.ts';
import { receiveFile } from './disk/receive.ts';
import { fileData } from './files.ts';
import { guestFormats, importGuest, isGuestFormat, modeOfFormat } from './guest.ts';
import type { Image, Layout } from './layout.ts';
import { type Described, publish, stageRoot } from './publish.ts';
import { type ImageKind, imageName } from './recipe.ts';
import { unpackRootfs } from './unpack.ts';
import { openWorkspace } from './workspace.ts';

/** Formats of root file systems, of disks, and of guests; stated, never found out by looking. */
export const imageFormats = ['tar', 'tar.gz', 'tar.zst', 'qcow2', 'raw', ...guestFormats] as const;
export type ImageFormat = (typeof imageFormats)[number];

/** Which kind of image comes in a format. */
export function kindOfFormat(format: ImageFormat): ImageKind {
  if (isGuestFormat(format)) return 'guest';
  return format === 'qcow2' || format === 'raw' ? 'disk' : 'rootfs';
}

export interface ImportRequest {
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly description?: string;
  readonly format: ImageFormat;
  readonly source: Chunks;
  /** In hex. When it is given, nothing reads the bytes before all of them are here and it is right. */
  readonly sha256?: string | undefined;
  /** Of an archive. */
  readonly limits?: ArchiveLimits;
  /** Keep setuid and setgid bits (`su`, `ping`): only for archives from a trusted hand. */
  readonly allowSetuid?: boolean;
  readonly onProgress?: ((progress: BuildProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Entries between two words of progress. */
const reportEvery = 1000;

function parseName(text: string): string {
  const result = imageName.safeParse(text);
  if (result.success) return result.data;
  throw new CarrelError(
    'validation_failed',
    `An image's name ${result.error.issues[0]?.message ?? 'is not valid'}`,
  );
}

/** Imports an archive, a disk or a guest; nothing is left behind when it is refused. */
export async function importImage(layout: Layout, request: ImportRequest): Promise<Image> {
  const name = parseName(request.name);
  const aliases = (request.aliases ?? []).map(parseName);
  const description = (request.description ?? '').slice(0, 500);
  const described = { name, aliases, description };
  const { format, source, sha256, onProgress, signal } = request;
  if (format === 'qcow2' || format === 'raw')
    return importDisk(layout, { described, format, source, sha256, onProgress, signal });
  if (isGuestFormat(format))
    return importGuest(layout, { described, mode: modeOfFormat(format), source, sha256, signal });
  return importRootfs(layout, { ...request, format }, described);
}

async function importRootfs(
  layout: Layout,
  request: ImportRequest & { readonly format: keyof typeof tarCompression },
  described: Pick<Described, 'name' | 'aliases' | 'description'>,
): Promise<Image> {
  const { format, limits = imageLimits, allowSetuid = false, sha256, onProgress, signal } = request;
  await using workspace = await openWorkspace(layout.tmp, 'import');
  const root = await stageRoot(workspace.directory);
  const source =
    sha256 === undefined
      ? request.source
      : await verified(workspace.directory, request.source, sha256, request);
  const meter = new Meter(limits);
  onProgress?.({ step: 1, of: 2, what: 'unpack' });
  await unpackRootfs(readTar(decompress(source, tarCompression[format], meter), meter), root, {
    allowSetuid,
    signal,
    maxPathBytes: limits.pathBytes,
    onEntry: (count) => {
      if (count % reportEvery === 0)
        onProgress?.({ step: 1, of: 2, what: 'unpack', detail: `${count} entries` });
    },
  });
  onProgress?.({ step: 2, of: 2, what: 'hash and publish' });
  // Awaited here: the workspace goes when this function is left.
  return await publish(
    layout,
    workspace.directory,
    { ...described, kind: 'rootfs', recipeHash: null },
    { signal },
  );
}

/** The same bytes, once all of them are on the disk and have the promised hash. */
async function verified(
  directory: string,
  source: Chunks,
  sha256: string,
  { limits = imageLimits, signal }: Pick<ImportRequest, 'limits' | 'signal'>,
): Promise<Chunks> {
  const path = join(directory, 'archive');
  const { packedBytes } = limits;
  await receiveFile(path, source, {
    limits: { fileBytes: packedBytes, storedBytes: packedBytes },
    sha256,
    signal,
  });
  return fileData(path);
}
