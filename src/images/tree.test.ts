import assert from 'node:assert/strict';
import { chmod, mkdir, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { scratch } from './testing.ts';
import { type TreeEntry, hashEntries, hashTree } from './tree.ts';

test('the hash of a tree does not depend on times or on the order files were made in', async () => {
  await using temporary = await scratch();
  const make = async (name: string, order: readonly string[]): Promise<string> => {
    const root = join(temporary.directory, name);
    await mkdir(join(root, 'd'), { recursive: true });
    for (const path of order) await writeFile(join(root, path), path);
    await utimes(join(root, order[0] ?? ''), 1, 1);
    return (await hashTree(root)).hash;
  };
  assert.equal(await make('one', ['a', 'd/b', 'c']), await make('two', ['c', 'a', 'd/b']));
});

test('content, mode, name, kind and link target each change the hash', async () => {
  await using temporary = await scratch();
  const root = temporary.directory;
  await writeFile(join(root, 'a'), 'x');
  const seen = new Set<string>();
  const look = async (): Promise<void> => {
    const { hash } = await hashTree(root);
    assert.ok(!seen.has(hash));
    seen.add(hash);
  };
  await look();
  await writeFile(join(root, 'a'), 'y');
  await look();
  await chmod(join(root, 'a'), 0o755);
  await look();
  await symlink('a', join(root, 'l'));
  await look();
  await rm(join(root, 'l'));
  await symlink('b', join(root, 'l'));
  await look();
  await mkdir(join(root, 'e'));
  await look();
});

test('a known tree has a known hash', () => {
  const entries: TreeEntry[] = [{ path: 'a', kind: 'directory', mode: 0o755 }];
  // printf 'directory 755\0a\0-\0' | sha256sum
  assert.equal(hashEntries(entries), 'e3d462feee64c4c2ee3424aa7c1097abe3e8511b47f2de2ddd21dc48fa5b11e7');
});

/** The same text for the same entries in any order. */
function key(entries: readonly TreeEntry[]): string {
  const lines = entries.map(({ path, kind, mode, content }) => JSON.stringify([path, kind, mode, content]));
  return lines.toSorted((left, right) => left.localeCompare(right)).join();
}

test('no two different lists of entries have the same hash', () => {
  const entry: fc.Arbitrary<TreeEntry> = fc.record({
    path: fc.constantFrom('a', 'a b', 'b', 'file 644 - x'),
    kind: fc.constantFrom('file' as const, 'symlink' as const),
    mode: fc.constantFrom(0o644, 0o755),
    content: fc.constantFrom('x', 'x a', '-'),
  });
  const list = fc.uniqueArray(entry, { selector: ({ path }) => path, maxLength: 3 });
  const seen = new Map<string, string>();
  fc.assert(
    fc.property(list, (entries) => {
      const hash = hashEntries(entries);
      const same = seen.get(hash);
      if (same !== undefined) assert.equal(same, key(entries));
      seen.set(hash, key(entries));
    }),
    { numRuns: 500 },
  );
});
