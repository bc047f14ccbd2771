import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { isCarrelError } from '#base/errors.ts';
import type { SandboxEnd, SandboxReport } from '#isolate/sandbox.ts';
import { answerOf } from '../checks/answer.ts';
import { decodeResult, encodeArguments } from '../checks/c-harness.ts';
import { combineCases } from '../checks/call.ts';
import { readPythonAnswer } from '../checks/call-python.ts';
import { verdictOfJudge } from '../checks/judge.ts';
import { endProblem } from '../checks/run.ts';
import type { TextExpectation } from '../format/expectations.ts';
import { resolveLimits } from '../format/limits.ts';
import { parseSignature } from '../format/signature.ts';
import { valuesEqual } from './equal.ts';
import { fileProblem, fileSeen, textProblem } from './expect.ts';
import { isClose, numbersProblem } from './numbers.ts';
import { failed, passed, stoppedByLimit } from './outcome.ts';
import { openRegexGuard } from './regex.ts';
import { oneLine, printable, quote } from './text.ts';

const limits = resolveLimits();

function report(end: SandboxEnd, { oomKills = 0, result = '' } = {}): SandboxReport {
  return {
    end,
    stdout: Buffer.alloc(0),
    stderr: Buffer.alloc(0),
    result: Buffer.from(result),
    files: [],
    usage: { cpuMs: 1, wallMs: 1, peakMemoryBytes: 1, processes: 1, oomKills },
  };
}

const well = { kind: 'exited', status: 0 } as const;

async function about(text: string, expect: TextExpectation, reveal = true): Promise<string | undefined> {
  await using guard = openRegexGuard();
  return await textProblem('it', Buffer.from(text), expect, {
    guard,
    reveal,
    readTest: async (path) => Buffer.from(`test ${path}`),
  });
}

test('every end by a limit is a failure with its own name; a shot child spoils a good exit', () => {
  assert.equal(stoppedByLimit(report(well), limits), undefined);
  assert.equal(stoppedByLimit(report({ kind: 'killed', reason: 'cpu' }), limits)?.verdict, 'timeout');
  assert.equal(stoppedByLimit(report({ kind: 'killed', reason: 'wall' }), limits)?.verdict, 'timeout');
  assert.equal(stoppedByLimit(report({ kind: 'killed', reason: 'memory' }), limits)?.verdict, 'memory');
  assert.equal(stoppedByLimit(report({ kind: 'killed', reason: 'output' }), limits)?.verdict, 'failed');
  assert.equal(stoppedByLimit(report(well, { oomKills: 1 }), limits)?.verdict, 'memory');
  assert.throws(
    () => stoppedByLimit(report({ kind: 'killed', reason: 'cancelled' }), limits),
    (error) => isCarrelError(error, 'cancelled'),
  );
});

test('an end is judged by status or signal', () => {
  assert.equal(endProblem(report(well), { stdout: { exact: '' } }), undefined);
  assert.equal(endProblem(report({ kind: 'exited', status: 3 }), { status: 3 }), undefined);
  assert.match(
    endProblem(report({ kind: 'exited', status: 3 }), {})?.reason ?? '',
    /status 3, expected status 0/,
  );
  assert.equal(endProblem(report({ kind: 'signaled', signal: 'SIGSEGV' }), { signal: 'SIGSEGV' }), undefined);
  assert.equal(endProblem(report({ kind: 'signaled', signal: 'SIGSEGV' }), {})?.verdict, 'crashed');
  assert.match(endProblem(report(well), { signal: 'SIGSEGV' })?.reason ?? '', /expected SIGSEGV/);
});

const answer = (text: string, end: SandboxEnd = well) =>
  answerOf(report(end, { result: text }), readPythonAnswer);

test('an answer is one line from a process that ended well, and nothing else', () => {
  assert.deepEqual(answer('{"returned": {"json": 4}}\n'), { kind: 'returned', value: 4 });
  const useless = [
    '',
    '{"returned": {"json": 4}}',
    '{"returned": {"json": 4}}\n{"returned": {"json": 5}}\n',
    '\n{"returned": {"json": 4}}\n',
    '{"returned": {"json": 4}, "passed": true}\n',
    '{"passed": true}\n',
    '{"returned": 4}\n',
    'PASS\n',
    `${'['.repeat(100_000)}\n`,
  ];
  for (const text of useless) assert.equal(answer(text).kind, 'none', text.slice(0, 50));
  assert.equal(answer('{"returned": {"json": 4}}\n', { kind: 'exited', status: 1 }).kind, 'none');
  assert.equal(answer('{"returned": {"json": 4}}\n', { kind: 'signaled', signal: 'SIGKILL' }).kind, 'none');
  fc.assert(
    fc.property(fc.uint8Array(), (bytes) => {
      const { kind } = answerOf({ ...report(well), result: Buffer.from(bytes) }, readPythonAnswer);
      assert.equal(kind, 'none');
    }),
  );
});

test('values are equal as data, not as text', () => {
  assert.ok(valuesEqual(3, 3));
  assert.ok(valuesEqual([1, { a: 'x' }], [1, { a: 'x' }]));
  assert.ok(!valuesEqual(true, 1));
  assert.ok(!valuesEqual(1, true));
  assert.ok(!valuesEqual('3', 3));
  assert.ok(!valuesEqual(null, false));
  assert.ok(!valuesEqual([], {}));
  assert.ok(!valuesEqual({ a: 1, b: 2 }, { a: 1 }));
  assert.ok(!valuesEqual({}, { toString: null }));
  assert.ok(valuesEqual(2n ** 64n, 2n ** 64n) && !valuesEqual(2n ** 64n, 2n ** 64n + 1n));
  assert.ok(valuesEqual(0.1 + 0.2, 0.3, 1e-9) && !valuesEqual(0.1 + 0.2, 0.3));
  assert.ok(valuesEqual(Number.NaN, Number.NaN));
  fc.assert(
    fc.property(
      fc.double({ noNaN: true }),
      fc.double({ min: 0, max: 10, noNaN: true }),
      (value, tolerance) => {
        assert.ok(isClose(value, value, tolerance));
        assert.ok(!Number.isFinite(value) || !isClose(value, Number.NaN, tolerance));
      },
    ),
  );
});

test('texts are compared as the author says', async () => {
  assert.equal(await about('a\n', { exact: 'a\n' }), undefined);
  assert.equal(await about('a', { exact: 'a\n' }), 'it is "a", expected "a\\n"');
  assert.equal(await about('test x', { exactFile: 'x' }), undefined);
  assert.equal(await about('a  \nb\n\n', { lines: ['a', 'b'] }), undefined);
  assert.equal(await about('a\nc\n', { lines: ['a', 'b'] }), 'it has "c" in line 2, expected "b"');
  assert.equal(await about('a\nb\nc', { lines: ['a', 'b'] }), 'it has "c" in line 3, expected nothing');
  assert.equal(await about('abc', { contains: ['a', 'c'], excludes: 'd' }), undefined);
  assert.equal(await about('abc', { contains: 'd' }), 'it does not contain "d"');
  assert.equal(await about('abc', { excludes: 'b' }), 'it contains "b"');
  assert.equal(await about('x = 42', { regex: '^x = \\d+$' }), undefined);
  assert.equal(await about('x = y', { regex: '^x = \\d+$' }), 'it does not match /^x = \\d+$/');
  assert.equal(
    await about('sum: 2.5001, n=2', { numbers: { values: [2.5, 2], tolerance: 1e-3, relative: 0 } }),
    undefined,
  );
});

test('what a hidden check expects is not said', async () => {
  for (const expect of [
    { exact: 'secret' },
    { contains: 'secret' },
    { regex: 'secret' },
    { lines: ['secret'] },
    { excludes: 'PASS' },
  ])
    assert.equal(await about('PASS', expect, false), 'it is not as expected');
});

const rule = (values: (number | bigint)[]) => ({ values, tolerance: 0, relative: 0 });

test('numbers are found between words, and their count matters', () => {
  assert.equal(numbersProblem('a 1, -2.5e3; +4', rule([1, -2500, 4])), undefined);
  assert.deepEqual(numbersProblem('1', rule([1, 2])), { observed: 'has 1 numbers', expected: '2 numbers' });
  assert.match(numbersProblem('1 2 3', rule([1, 2]))?.observed ?? '', /more than 2/);
  assert.equal(numbersProblem('18446744073709551617', rule([18446744073709551617n])), undefined);
  assert.ok(numbersProblem('18446744073709551616', rule([18446744073709551617n])));
  assert.equal(numbersProblem('inf -inf', rule([Infinity, -Infinity])), undefined);
  fc.assert(
    fc.property(fc.array(fc.integer(), { minLength: 1, maxLength: 20 }), (values) => {
      assert.equal(numbersProblem(values.join(' '), rule(values)), undefined);
    }),
  );
});

test('a pattern that takes for ever costs a thread, not the grader, and the next one works', async () => {
  await using guard = openRegexGuard({ limitMs: 300 });
  assert.equal(await guard.matches('^a+$', 'aaa'), true);
  await assert.rejects(guard.matches('^(a+)+$', `${'a'.repeat(60)}b`), (error) =>
    isCarrelError(error, 'deadline_exceeded'),
  );
  await assert.rejects(guard.matches('(', 'a'), (error) => isCarrelError(error, 'lab_invalid'));
  assert.deepEqual(await Promise.all(['a', 'b', 'c'].map((text) => guard.matches('b', text))), [
    false,
    true,
    false,
  ]);
});

test('a judge accepts with 42, rejects with 43, and everything else is no verdict', () => {
  assert.equal(verdictOfJudge(42, {}, true)?.verdict, 'passed');
  assert.equal(verdictOfJudge(43, { score: '1' }, true)?.verdict, 'failed');
  assert.deepEqual(verdictOfJudge(42, { score: '0.25\n', message: 'a quarter' }, true), {
    verdict: 'partial',
    fraction: 0.25,
    reason: 'a quarter',
  });
  assert.equal(verdictOfJudge(42, { score: '0' }, true)?.verdict, 'failed');
  for (const score of ['1.5', '-1', 'NaN', 'Infinity', '', '1e5', '0x1'])
    assert.equal(verdictOfJudge(42, { score }, true)?.verdict, 'error', score);
  assert.doesNotMatch(verdictOfJudge(43, { message: 'expected 7' }, false)?.reason ?? '', /7/);
  for (const status of [0, 1, 44, 137, -1]) assert.equal(verdictOfJudge(status, {}, true), undefined);
});

test('cases add up, and one without a verdict leaves none', () => {
  assert.equal(combineCases([passed('x')]).verdict, 'passed');
  assert.deepEqual(
    [combineCases([passed('x'), failed('y')]).verdict, combineCases([passed('x'), failed('y')]).fraction],
    ['partial', 0.5],
  );
  assert.equal(combineCases([failed('x', 'timeout'), failed('y')]).verdict, 'timeout');
  assert.equal(combineCases([passed('x'), passed('y')]).fraction, 1);
  assert.equal(combineCases([passed('x'), { verdict: 'error', fraction: 0, reason: 'z' }]).verdict, 'error');
});

test('C values survive the way in and out', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (value) => {
      const line = encodeArguments(parseSignature('long f(long)'), [value]).trim();
      assert.ok(valuesEqual(decodeResult('long', line), value));
    }),
  );
  fc.assert(
    fc.property(fc.double(), (value) => {
      assert.ok(
        Object.is(
          decodeResult('double', encodeArguments(parseSignature('double f(double)'), [value]).trim()),
          value,
        ),
      );
    }),
  );
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (value) => {
      assert.equal(
        decodeResult('char *', encodeArguments(parseSignature('char *f(char *)'), [value]).trim()),
        value,
      );
    }),
  );
  for (const line of ['', '12', 'PASS', '00000000000000zz', '0'.repeat(17)])
    assert.throws(() => decodeResult('int', line), SyntaxError);
});

test('foreign text is shown harmlessly', async () => {
  assert.equal(oneLine('a\nb\u001b[31mc\u202e'), 'a b [31mc');
  assert.ok(oneLine('😀'.repeat(400), 301).isWellFormed() && oneLine('\ud800x').isWellFormed());
  assert.equal(quote('a"\n\u202e'), '"a\\"\\n\\u202e"');
  assert.equal(printable(Buffer.from('a\u0000b\n\tc\u001b')), 'a\uFFFDb\n\tc\uFFFD');
  assert.match(printable(Buffer.alloc(5000, 'x')), /cut after 4096 of 5000 bytes/);
  await using guard = openRegexGuard();
  const judging = { guard, reveal: true, readTest: async () => Buffer.alloc(0) };
  const seen = fileSeen('f', { error: 'ENOENT' }, 10);
  assert.match((await fileProblem(seen, { path: 'f', exact: '', maxSize: 10 }, judging)) ?? '', /missing/);
  assert.equal(await fileProblem(seen, { path: 'f', absent: true, maxSize: 10 }, judging), undefined);
  assert.match(
    (await fileProblem(
      { ...seen, content: Buffer.alloc(0) },
      { path: 'f', absent: true, maxSize: 10 },
      judging,
    )) ?? '',
    /is there/,
  );
  for (const error of ['EFBIG', 'EINVAL', 'ELOOP'])
    assert.match(
      (await fileProblem(fileSeen('f', { error }, 10), { path: 'f', absent: true, maxSize: 10 }, judging)) ??
        '',
      /is there/,
      error,
    );
  assert.equal(
    await fileProblem(
      fileSeen('f', { error: 'ENOTDIR' }, 10),
      { path: 'f', absent: true, maxSize: 10 },
      judging,
    ),
    undefined,
  );
  assert.match(
    (await fileProblem({ ...seen, truncated: true }, { path: 'f', exact: '', maxSize: 10 }, judging)) ?? '',
    /larger/,
  );
});
