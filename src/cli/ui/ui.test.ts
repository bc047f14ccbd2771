import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createProgress } from './progress.ts';
import { createPaint, printable, widthOf } from './style.ts';
import { renderTable } from './table.ts';

test('a table is as wide as its cells, numbers on the right, and colours do not count', () => {
  const paint = createPaint({ isTTY: true }, {});
  const text = renderTable(
    [
      { name: 'web', state: 'running', cpus: 1 },
      { name: '日本', state: 'stopped', cpus: 16 },
    ],
    [
      { head: 'NAME', cell: (row) => row.name },
      { head: 'STATE', cell: (row) => row.state, paint: (word) => paint('green', word) },
      { head: 'CPUS', cell: (row) => row.cpus, align: 'right' },
    ],
  );
  assert.deepEqual(text.split('\n'), [
    'NAME  STATE    CPUS',
    'web   \u001B[32mrunning\u001B[0m     1',
    '日本  \u001B[32mstopped\u001B[0m    16',
  ]);
});

test('what a student printed cannot steer the terminal', () => {
  assert.equal(printable('ok\u001B[2J\u202Etxt\r'), String.raw`ok\x1b[2J\x202etxt\x0d`);
  assert.equal(renderTable([{ a: 'x\u0007\ny' }], [{ head: 'A', cell: (row) => row.a }]), 'A\nx\\x07 y');
});

test('colours are for terminals, and not where NO_COLOR is set', () => {
  assert.equal(createPaint({ isTTY: false }, {})('red', 'x'), 'x');
  assert.equal(createPaint({ isTTY: true }, { NO_COLOR: '1' })('red', 'x'), 'x');
  assert.equal(widthOf(createPaint({ isTTY: true }, {})('red', 'x')), 1);
});

test('progress is silent for a second, then sparse where there is no terminal', (context) => {
  context.mock.timers.enable({ apis: ['setInterval'] });
  let at = 0;
  const lines: string[] = [];
  using progress = createProgress({ screen: { write: (text) => lines.push(text) }, now: () => at });
  const pass = (ms: number): void => {
    at += ms;
    context.mock.timers.tick(100);
  };
  progress.update('step one');
  pass(500);
  assert.deepEqual(lines, []);
  pass(600);
  pass(600);
  progress.update('step two', 1, 3);
  pass(1000);
  assert.deepEqual(lines, ['  step one\n']);
  pass(5000);
  assert.deepEqual(lines, ['  step one\n', '  step two 1/3\n']);
});
