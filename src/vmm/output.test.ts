import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GuestOutput } from './output.ts';

test('output goes out line by line, the last one as it is, and never more than the limit', () => {
  const lines: string[] = [];
  const output = new GuestOutput({ limit: 12, onLine: (line) => lines.push(line) });
  assert.ok(output.write(Buffer.from('one\ntw')));
  assert.deepEqual(lines, ['one\n']);
  assert.ok(output.write(Buffer.from('o\n€')));
  assert.equal(output.byte(0x21), true);
  assert.equal(output.byte(0x21), false);
  output.flush();
  output.flush();
  assert.deepEqual(lines, ['one\n', 'two\n', '€!']);
});
