/** The files below a directory: plain files only, within limits, without following anything. */
import { lstat, opendir } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { isSafePath } from './fields.ts';
import type { SubmittedFile } from './submission.ts';

export interface TreeLimits {
  readonly files: number;
  readonly bytes: number;
  readonly depth: number;
}

/** A lab with its tests and solutions. */
export const labTreeLimits: TreeLimits = { files: 2000, bytes: 64 * 2 ** 20, depth: 16 };

function refuse(message: string): never {
  throw new CarrelError('lab_invalid', message);
}

/** Lists the files below `root`, sorted. A link, device, pipe or socket is refused by name. */
export async function listFiles(root: string, limits: TreeLimits = labTreeLimits): Promise<SubmittedFile[]> {
  const files: SubmittedFile[] = [];
  let bytes = 0;
  let entries = 0;
  const visit = async (below: string, depth: number): Promise<void> => {
    if (depth > limits.depth) refuse(`${below} lies more than ${limits.depth} directories deep`);
    for await (const { name } of await opendir(join(root, below))) {
      const path = below === '' ? name : `${below}/${name}`;
      entries += 1;
      if (entries > 2 * limits.files) refuse(`more than ${2 * limits.files} files and directories`);
      if (!isSafePath(path)) refuse(`${JSON.stringify(path)} is no plain file name`);
      const stats = await lstat(join(root, path));
      if (stats.isDirectory()) await visit(path, depth + 1);
      else if (stats.isFile()) {
        files.push({ path, bytes: stats.size });
        bytes += stats.size;
      } else refuse(`${path} is neither a file nor a directory`);
      if (files.length > limits.files) refuse(`more than ${limits.files} files`);
      if (bytes > limits.bytes) refuse(`more than ${formatSize(limits.bytes)} in all`);
    }
  };
  await visit('', 0);
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}
