import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readImports } from './check-layers.ts';
import { complaint, cycles, importsOf, layers } from './layers.ts';

test('imports are found in every form in which they are written', () => {
  const text = `import a from './a.ts';
import { b,
  type C } from '#base/b.ts';
import './side-effect.ts';
export * from './d.ts';
export type { E } from "zod";
export { f } from './f.ts';
const g = await import('./g.ts');
// no import: './h.ts'
const text = 'import x from "./i.ts"';
`;
  assert.deepEqual(importsOf(text), [
    './a.ts',
    '#base/b.ts',
    './side-effect.ts',
    './d.ts',
    './f.ts',
    './g.ts',
  ]);
});

test('an import upwards, or from an unknown floor, is a complaint; one downwards is none', () => {
  assert.match(complaint({ from: 'src/host/a.ts', to: 'src/store/b.ts' }) ?? '', /host may not import store/);
  assert.match(complaint({ from: 'src/attic/a.ts', to: 'src/base/b.ts' }) ?? '', /src\/attic is no floor/);
  assert.match(complaint({ from: 'src/host/a.ts', to: 'test/harness/b.ts' }) ?? '', /no part of the product/);
  assert.equal(complaint({ from: 'src/host/a.test.ts', to: 'test/harness/b.ts' }), undefined);
  assert.equal(complaint({ from: 'src/store/a.ts', to: 'src/base/b.ts' }), undefined);
});

test('the table itself has no way up', () => {
  const imports = Object.entries(layers).flatMap(([from, below]) => below.map((to) => ({ from, to })));
  assert.deepEqual(cycles(imports), []);
});

test('in this tree all imports between floors point down', async () => {
  assert.deepEqual(
    (await readImports()).flatMap((each) => complaint(each) ?? []),
    [],
  );
});
