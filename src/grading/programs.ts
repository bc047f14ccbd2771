/** Is a program that the author names in the image? One that is not is the author's fault, never the student's. */
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { resolveInRoot } from '#images/inroot.ts';
import type { CheckContext } from './context.ts';

/** As in the environment of every run. */
export const programPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

async function exists(root: string, path: string): Promise<boolean> {
  try {
    await lstat(await resolveInRoot(root, path));
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return false;
    throw error;
  }
}

/** The paths where a program would be found; none if it is the submission's own, or the author set another PATH. */
export function placesOf(program: string, env: Readonly<Record<string, string>>): string[] {
  if (program.startsWith('/'))
    return program.startsWith('/work/') || program.startsWith('/tmp/') ? [] : [program];
  if (program.includes('/') || env['PATH'] !== undefined) return [];
  return programPath.split(':').map((directory) => join(directory, program));
}

/** A `lab_invalid` error if the image has no such program. */
export async function requireProgram(
  { root, folder }: Pick<CheckContext, 'root' | 'folder'>,
  program: string,
  env: Readonly<Record<string, string>> = {},
): Promise<void> {
  const places = placesOf(program, env);
  for (const place of places) if (await exists(root, place)) return;
  if (places.length > 0)
    throw new CarrelError('lab_invalid', `the image ${folder.lab.image} has no program ${program}`);
}
