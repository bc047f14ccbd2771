/** Reads every source file and says which imports point the wrong way. Exit status 1 if one does. */
import { glob, readFile } from 'node:fs/promises';
import { dirname, join, normalize } from 'node:path';
import { complaint, importsOf, type Import } from './layers.ts';

const root = join(import.meta.dirname, '..');

/** `#floor/x.ts` and relative imports as paths from the root; packages and node: are not ours. */
function resolveImport(from: string, written: string): string | undefined {
  if (written.startsWith('#test/')) return written.slice(1);
  if (written.startsWith('#')) return `src/${written.slice(1)}`;
  return written.startsWith('.') ? normalize(join(dirname(from), written)) : undefined;
}

/** Imports of every file below src, test and bench. */
export async function readImports(): Promise<Import[]> {
  const imports: Import[] = [];
  for await (const from of glob('{src,test,bench}/**/*.ts', { cwd: root }))
    for (const written of importsOf(await readFile(join(root, from), 'utf8'))) {
      const to = resolveImport(from, written);
      if (to !== undefined) imports.push({ from, to });
    }
  return imports;
}

if (import.meta.main) {
  const imports = await readImports();
  const complaints = imports.flatMap((each) => complaint(each) ?? []);
  for (const line of complaints) console.error(line);
  console.log(`${imports.length} imports between files, ${complaints.length} the wrong way`);
  process.exitCode = complaints.length > 0 ? 1 : 0;
}
