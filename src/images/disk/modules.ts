/** Kernel modules of a package: which file holds a module, and which must be loaded before it (modules.dep(5)). */
import { readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';

export interface Modules {
  /** lib/modules/VERSION, on the host. */
  readonly directory: string;
  /** All files, relative to the directory. */
  readonly files: readonly string[];
  /** The files to load for a module, in that order; undefined when the kernel has no such module. */
  closure(name: string): readonly string[] | undefined;
}

/** `virtio-rng.ko.xz` and `virtio_rng` are one module. */
const moduleName = (file: string): string =>
  basename(file)
    .replace(/\.ko(\.\w+)?$/, '')
    .replaceAll('-', '_');

/** Lines of `file: what it needs, the farthest last`. */
export function parseModulesDep(text: string): Map<string, readonly string[]> {
  const needs = new Map<string, readonly string[]>();
  for (const line of text.split('\n')) {
    const at = line.indexOf(':');
    if (at > 0)
      needs.set(
        line.slice(0, at),
        line
          .slice(at + 1)
          .split(' ')
          .filter(Boolean),
      );
  }
  return needs;
}

/** Reads what depmod(8) has written. */
export async function readModules(directory: string): Promise<Modules> {
  const needs = parseModulesDep(await readFile(join(directory, 'modules.dep'), 'utf8'));
  const byName = new Map([...needs.keys()].map((file) => [moduleName(file), file]));
  return {
    directory,
    files: [...needs.keys()],
    closure(name) {
      const file = byName.get(name.replaceAll('-', '_'));
      return file === undefined ? undefined : [...(needs.get(file) ?? []).toReversed(), file];
    },
  };
}
