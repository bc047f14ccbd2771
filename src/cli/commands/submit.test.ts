import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pathInSubmission } from './submit.ts';

test('a file goes in under the path by which the lab asks for it', () => {
  assert.equal(pathInSubmission('../work/lab1/main.c', ['main.c']), 'main.c');
  assert.equal(pathInSubmission('lab1/src/main.c', ['src/*.c', 'main.c']), 'src/main.c');
  assert.equal(pathInSubmission('./main.c', ['*.c']), 'main.c');
  assert.equal(pathInSubmission('lab1/notes.txt', ['main.c']), 'lab1/notes.txt');
});
