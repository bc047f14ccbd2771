import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import { quoteName, safeRelativePath } from './paths.ts';

const refused = [
  '',
  '.',
  './',
  '/',
  '/etc/passwd',
  '//etc',
  '..',
  '../x',
  'a/../b',
  'a/..',
  'a\\b',
  '..\\x',
  'a\0b',
  'a\nb',
  'a\x1b[31mb',
  'a\u0085b',
  'a\u202eb',
  'a\u2028b',
  'a\ud800',
  'x'.repeat(256),
  'é'.repeat(128),
  'x/'.repeat(2048) + 'y',
];

for (const name of refused)
  test(`${quoteName(name)} is refused as a path`, () => {
    assert.throws(
      () => safeRelativePath(name),
      (error) => isCarrelError(error, 'invalid_archive') && !/[\p{Cc}\u202e]/u.test(error.message),
    );
  });

test('a path comes back in normal form', () => {
  assert.equal(safeRelativePath('./src//main.c'), 'src/main.c');
  assert.equal(safeRelativePath('a/./b/'), 'a/b');
  assert.equal(safeRelativePath('...'), '...');
  assert.equal(safeRelativePath('Übung 1/größe.py'), 'Übung 1/größe.py');
  assert.equal(safeRelativePath('x'.repeat(255)), 'x'.repeat(255));
});

test('whatever text comes in, what comes out stays below the directory and is stable', () => {
  const piece = fc.oneof(
    fc.constantFrom('/', '..', '.', '\\', '\0', '\n', 'a', 'bc'),
    fc.string({ unit: 'binary' }),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
      const text = pieces.join('');
      let path: string;
      try {
        path = safeRelativePath(text);
      } catch (error) {
        assert.ok(isCarrelError(error, 'invalid_archive'));
        return;
      }
      assert.ok(!path.startsWith('/') && !path.includes('\\') && !path.endsWith('/'));
      assert.ok(path.split('/').every((part) => part !== '' && part !== '.' && part !== '..'));
      assert.equal(safeRelativePath(path), path);
    }),
  );
});

test('a very long text is refused without looking through it', () => {
  assert.throws(() => safeRelativePath('../'.repeat(10_000_000)), /longer than/);
});
