/** Which test files there are, and which of them are meant. */
import { glob } from 'node:fs/promises';

/** End-to-end tests start clouds; they are told by their name. */
export const isEndToEnd = (path: string): boolean => path.endsWith('.e2e.test.ts');

export interface Selection {
  /** Parts of paths; all files unless given. */
  readonly filters?: readonly string[];
  readonly onlyUnit?: boolean;
}

/** Picks from a list: pure. Sorted, end-to-end tests last, so that small mistakes are seen first. */
export function select(paths: readonly string[], { filters = [], onlyUnit = false }: Selection): string[] {
  return paths
    .filter(
      (path) => filters.length === 0 || filters.some((filter) => path.includes(filter.replace(/^\.\//, ''))),
    )
    .filter((path) => !(onlyUnit && isEndToEnd(path)))
    .sort((a, b) => Number(isEndToEnd(a)) - Number(isEndToEnd(b)) || (a < b ? -1 : 1));
}

/** All test files below `root`, as paths relative to it. */
export async function findTestFiles(root: string): Promise<string[]> {
  const found: string[] = [];
  for await (const path of glob('{src,test,bench,labs,.ci}/**/*.test.ts', { cwd: root })) found.push(path);
  return found;
}
