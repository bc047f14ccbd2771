/** A root file system made elsewhere becomes an image: unpacked under limits, then published like a built one. */
import { CarrelError } from '#base/errors.ts';
import type { Chunks } from './archive/bytes.ts';
import { decompress } from './archive/decompress.ts';
import { type ArchiveLimits, Meter, imageLimits } from './archive/limits.ts';
import { tarCompression } from './archive/read.ts';
import { readTar } from './archive/tar.ts';
import type { BuildProgress } from './build.ts';
import type { Image, Layout } from './layout.ts';
import { publish, stageRoot } from './publish.ts';
import { imageName } from './recipe.ts';
import { unpackRootfs } from './unpack.ts';
import { openWorkspace } from './workspace.ts';

/** Formats of a root file system; stated, never found out by looking. */
export type ImageFormat = keyof typeof tarCompression;
export const imageFormats: readonly ImageFormat[] = ['tar', 'tar.gz', 'tar.zst'];

export interface ImportRequest {
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly description?: string;
  readonly format: ImageFormat;
  readonly source: Chunks;
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

/** Imports an archive; nothing is left behind when it is refused. */
export async function importImage(layout: Layout, request: ImportRequest): Promise<Image> {
  const { format, source, limits = imageLimits, allowSetuid = false, onProgress, signal } = request;
  const name = parseName(request.name);
  const aliases = (request.aliases ?? []).map(parseName);
  const description = (request.description ?? '').slice(0, 500);
  await using workspace = await openWorkspace(layout.tmp, 'import');
  const root = await stageRoot(workspace.directory);
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
  const described = { name, aliases, description, kind: 'rootfs', recipeHash: null } as const;
  // Awaited here: the workspace goes when this function is left.
  return await publish(layout, workspace.directory, described, { signal });
}
