import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { array, assert as check, property, string } from 'fast-check';
import { formatCsv, parseCsv } from './csv.ts';
import { parseInstant } from './instant.ts';
import { parseRoster } from './roster.ts';

suite('CSV', () => {
  test('what is written is read back', () => {
    const cell = string().filter(
      (text) => !/^[=+\-@\t\r]/.test(text) && !text.includes('\r') && !text.startsWith('\uFEFF'),
    );
    check(
      property(array(array(cell, { minLength: 2, maxLength: 4 }), { minLength: 1 }), (rows) => {
        assert.deepEqual(parseCsv(formatCsv(rows)), rows);
      }),
    );
  });

  test('a cell that a spreadsheet would run is made text', () => {
    assert.equal(formatCsv([['=HYPERLINK("http://x")', -5, null]]), `"'=HYPERLINK(""http://x"")",-5,\n`);
  });

  test('a quote that is never closed is refused', () => {
    assert.throws(() => parseCsv('a,"b\nc'), /inside a quoted cell/);
  });
});

suite('a roster', () => {
  test('has the columns its first line names, in any order', () => {
    const lines = parseRoster('\uFEFFRole, name ,section\r\nta,bob,\r\n,eve,"A, morning"\r\n');
    assert.deepEqual(lines, [
      { name: 'bob', role: 'ta', section: null },
      { name: 'eve', role: 'student', section: 'A, morning' },
    ]);
  });

  test('tells all its mistakes at once, with their lines', () => {
    assert.throws(
      () => parseRoster('name,role\nBob,student\neve,boss\neve,ta\n'),
      /3 mistake\(s\): line 2: "Bob" is not a name.*line 3: "boss" is not a role.*line 4: eve is there twice/,
    );
  });

  test('needs a column "name", and no unknown ones', () => {
    assert.throws(() => parseRoster('student\nbob\n'), /column "student"/);
    assert.throws(() => parseRoster('role\nta\n'), /no column "name"/);
  });
});

suite('a point in time', () => {
  const now = new Date('2026-11-01T12:00:00Z');
  test('is an instant, a day, an offset, or never', () => {
    assert.equal(parseInstant('2026-12-01T23:59Z', now), '2026-12-01T23:59:00.000Z');
    assert.equal(parseInstant('2026-12-01T23:59+02:00', now), '2026-12-01T21:59:00.000Z');
    assert.equal(parseInstant('+7d', now), '2026-11-08T12:00:00.000Z');
    assert.equal(parseInstant('2026-12-01', now), new Date('2026-12-01T23:59').toISOString());
    assert.equal(parseInstant('never', now), null);
  });

  for (const text of ['tomorrow', '2026-02-30', '2026-13-01', '2026-12-01T25:00Z', '', '+soon'])
    test(`"${text}" is none`, () => assert.throws(() => parseInstant(text, now)));
});
