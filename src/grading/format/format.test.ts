import assert from 'node:assert/strict';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { CarrelError, messageOf } from '#base/errors.ts';
import { temporaryTree, type Texts } from '../testing.ts';
import { loadLab } from './folder.ts';
import { matchesPattern } from './patterns.ts';
import { partOf, sharePoints, sumPoints } from './points.ts';
import { parseSignature } from './signature.ts';
import { submissionProblems } from './submission.ts';
import { complaint, parse } from './testing.ts';
import { formatValue, parseValue } from './values.ts';

const head = `title: A lab
name: a-lab
image: busybox
run: sandbox
points: 10
submit: { files: [{ pattern: '*.py' }] }
`;
const check = `checks:
  - id: one
    title: One
    run: { argv: [echo], expect: { stdout: { exact: "" } } }
`;

async function loading(
  files: Texts,
  prepare: (directory: string) => Promise<void> = async () => {},
): Promise<string> {
  await using tree = await temporaryTree(files);
  await prepare(tree.directory);
  try {
    await loadLab(tree.directory);
    return 'loaded';
  } catch (error) {
    assert.ok(error instanceof CarrelError && error.code === 'lab_invalid', messageOf(error));
    return error.message.replaceAll(tree.directory, 'DIR');
  }
}

test('a small lab gets its defaults', () => {
  const lab = parse(head + check);
  assert.equal(lab.points, 10);
  assert.deepEqual(lab.checks[0]?.limits, {
    cpuMs: 3000,
    wallMs: 11_000,
    memoryBytes: 256 * 2 ** 20,
    processes: 64,
    outputBytes: 65_536,
    tmpBytes: 64 * 2 ** 20,
    tmpFiles: 4096,
    fileBytes: 64 * 2 ** 20,
  });
  assert.equal(lab.checks[0]?.visibility, 'visible');
});

test('complaints name the line and the field', () => {
  assert.equal(
    complaint(`${head}colour: red\n${check}`),
    'lab.yaml:7: colour is no field that is known here',
  );
  assert.match(complaint(head.replace('busybox', '[1]') + check), /^lab\.yaml:3: image /);
  assert.match(
    complaint(head + check.replace('exact', 'exakt')),
    /^lab\.yaml:10: checks\[0\]\.run\.expect\.stdout\.exakt is no field/,
  );
  assert.match(
    complaint(head + check.replace('run: {', 'run: { cwd: /,')),
    /^lab\.yaml:10: checks\[0\]\.run\.cwd is no field/,
  );
  assert.match(complaint(`${head}title: again\n${check}`), /^lab\.yaml:7: .*unique/);
  assert.match(
    complaint(head + check.replace('title: One', 'title: "a\\nb"')),
    /^lab\.yaml:9: checks\[0\]\.title .*one line/,
  );
  assert.match(complaint('a: [b'), /^lab\.yaml:1: /);
  assert.match(complaint(head), /^lab\.yaml(:1)?: checks /);
});

test('a check that cannot fail, or has no verdict, is refused', () => {
  assert.match(
    complaint(head + check.replace('{ exact: "" }', '{}')),
    /expects nothing, so everything would pass/,
  );
  assert.match(
    complaint(head + check.replace(', expect: { stdout: { exact: "" } }', '')),
    /needs expect or judge/,
  );
  assert.match(complaint(head + check.replace(/run: .*/, '')), /needs exactly one of run, call, observe/);
  assert.match(
    complaint(head + check.replace('{ exact: "" }', '{ regex: "(" }')),
    /is no regular expression/,
  );
});

test('needs point backwards, ids are unique, points agree', () => {
  const two = check + check.replace('checks:\n', '').replace('one', 'two');
  assert.match(
    complaint(head + two.replace('title: One', 'title: One\n    needs: [two]')),
    /needs two, which is no check before it/,
  );
  assert.match(complaint(head + two.replace('id: two', 'id: one')), /one is used twice/);
  assert.match(
    complaint(head + two.replace('title: One', 'title: One\n    points: 3')),
    /have points on some only/,
  );
  assert.match(
    complaint(head + check.replace('title: One', 'title: One\n    points: 3')),
    /is 10, but the checks add up to 3/,
  );
  assert.match(
    complaint(head + check.replace('title: One', 'title: One\n    weight: 0')),
    /all have the weight 0/,
  );
  const observing = `${head}${check.replace(/run: .*/, 'observe: { ping: { address: 10.0.0.1 } }')}`;
  assert.match(complaint(observing), /looks at a machine, but run says sandbox/);
});

const call = (spec: string) => complaint(`${head}checks:\n  - { id: a, title: A, call: ${spec} }\n`);

test('calls are checked against their signatures', () => {
  assert.equal(
    call('{ language: c, file: a.c, function: f, signature: "int f(int)", args: [1], returns: 2 }'),
    'no complaint',
  );
  assert.match(call('{ language: c, file: a.c, function: f, args: [1], returns: 2 }'), /C needs a signature/);
  assert.match(
    call('{ language: c, file: a.c, function: f, signature: "int f(int)", args: [1.5], returns: 2 }'),
    /1\.5 is no int/,
  );
  assert.match(
    call('{ language: c, file: a.c, function: f, signature: "int f(int)", args: [2147483648], returns: 2 }'),
    /is no int/,
  );
  assert.match(
    call('{ language: c, file: a.c, function: f, signature: "int g(int)", args: [1], returns: 2 }'),
    /names g, not f/,
  );
  assert.match(
    call('{ language: c, file: a.c, function: f, signature: "struct x f(int)", args: [1], returns: 2 }'),
    /none of int, long/,
  );
  assert.match(
    call('{ language: python, file: a.py, function: f, args: [1] }'),
    /needs exactly one of returns, raises/,
  );
  assert.match(call('{ language: python, file: ../a.py, function: f, returns: 1 }'), /relative path/);
  assert.match(call('{ language: python, file: a.py, function: "f()", returns: 1 }'), /name of a function/);
});

test('signatures are read as C writes them', () => {
  assert.deepEqual(parseSignature('const char *f(char *s, int n, double)').parameters, [
    'char *',
    'int',
    'double',
  ]);
  assert.equal(parseSignature('long f(void);').parameters.length, 0);
  assert.equal(parseSignature('char* f(const char* text)').result, 'char *');
});

const level = (name: string, of: string): string =>
  `${name}: &${name} [${Array.from({ length: 9 }, () => of).join(',')}]`;

test('aliases cannot make a small file large', () => {
  const names = Array.from({ length: 9 }, (_, index) => `n${index}`);
  const bomb = names.map((name, index) => level(name, index === 0 ? 'x' : `*n${index - 1}`)).join('\n');
  assert.match(complaint(bomb), /lab\.yaml/);
  assert.match(complaint(`title: ${'x'.repeat(300_000)}`), /larger than 256 KiB/);
});

test('no text makes the parser do anything but parse or complain', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.string({ unit: 'binary' }),
        fc.json().map((text) => head + text),
      ),
      (text) => {
        complaint(text);
      },
    ),
    { numRuns: 300 },
  );
  const lines = (head + check).split('\n');
  fc.assert(
    fc.property(
      fc.nat(lines.length),
      fc.nat(lines.length),
      fc.constantFrom('null', '[]', '{}', '1', '"x"', '-', '&a *a'),
      (drop, change, text) => {
        complaint(
          lines
            .flatMap((line, index) =>
              index === drop ? [] : [index === change ? line.replace(/: .*/, `: ${text}`) : line],
            )
            .join('\n'),
        );
      },
    ),
    { numRuns: 300 },
  );
});

test('points add up to the total, exactly, however they are shared', () => {
  const weights = fc
    .array(fc.double({ min: 0, max: 1000, noNaN: true }), { minLength: 1, maxLength: 60 })
    .filter((all) => all.some((each) => each > 1e-3));
  fc.assert(
    fc.property(fc.nat(1_000_000), weights, (cents, weights) => {
      const shares = sharePoints(cents / 100, weights);
      assert.equal(sumPoints(shares), cents / 100);
      const sum = weights.reduce((a, b) => a + b, 0);
      for (const [index, share] of shares.entries())
        assert.ok(Math.abs(share - ((cents / 100) * (weights[index] ?? 0)) / sum) <= 0.01 + 1e-9);
    }),
  );
  assert.deepEqual(
    sharePoints(
      10,
      Array.from({ length: 9 }, () => 1),
    ),
    [1.12, 1.11, 1.11, 1.11, 1.11, 1.11, 1.11, 1.11, 1.11],
  );
});

test('a part of the points is never more than the part, and never the whole', () => {
  fc.assert(
    fc.property(fc.nat(10_000), fc.double({ min: 0, max: 1, noNaN: true }), (cents, fraction) => {
      const points = cents / 100;
      const part = partOf(points, fraction);
      assert.ok(part >= 0 && part <= points * fraction + 1e-6);
    }),
  );
  assert.equal(partOf(10, 0.7), 7);
  assert.equal(partOf(1.12, 0.999), 1.11);
});

test('patterns match parts of paths, and in bounded time', () => {
  assert.ok(matchesPattern('*.py', 'a.py'));
  assert.ok(!matchesPattern('*.py', 'b/a.py'));
  assert.ok(matchesPattern('**/*.py', 'a.py'));
  assert.ok(matchesPattern('src/**/x?.c', 'src/a/b/x1.c'));
  assert.ok(!matchesPattern('src/**', 'lib/a'));
  assert.ok(!matchesPattern(`${'*a'.repeat(8)}b`, 'a'.repeat(250)));
  fc.assert(
    fc.property(fc.stringMatching(/^[a-c]{1,8}(\/[a-c]{1,8}){0,3}$/), (path) => {
      assert.ok(matchesPattern(path, path) && matchesPattern('**', path));
      assert.ok(
        matchesPattern(path.replaceAll('a', '*'), path) && matchesPattern(path.replaceAll('b', '?'), path),
      );
    }),
  );
});

test('submissions are refused with all reasons', () => {
  const { submit } = parse(head + check);
  assert.deepEqual(submissionProblems(submit, [{ path: 'a.py', bytes: 10 }]), []);
  assert.deepEqual(submissionProblems(submit, []), ['*.py is missing']);
  for (const path of ['../a.py', '/a.py', 'a//b.py', 'a\nb.py', './a.py', `${'x'.repeat(300)}.py`])
    assert.match(submissionProblems(submit, [{ path, bytes: 1 }]).join(), /no plain relative path/);
  assert.match(
    submissionProblems(submit, [{ path: 'a.sh', bytes: 1 }]).join(),
    /a\.sh is not asked for.*\*\.py is missing/,
  );
  assert.match(submissionProblems(submit, [{ path: 'a.py', bytes: 70_000 }]).join(), /more than 64 KiB/);
  assert.match(
    submissionProblems(
      submit,
      Array.from({ length: 101 }, (_, n) => ({ path: `${n}.py`, bytes: 1 })),
    ).join(),
    /more than 100/,
  );
});

test('values keep whole numbers of any size', () => {
  assert.equal(parseValue('18446744073709551617'), 18446744073709551617n);
  assert.deepEqual(parseValue('[1, 2.5, 3.0]'), [1, 2.5, 3]);
  const value = fc.letrec<{ all: unknown }>((tie) => ({
    all: fc.oneof(
      fc.constant(null),
      fc.boolean(),
      fc.maxSafeInteger(),
      fc.bigInt({ min: 2n ** 60n, max: 2n ** 200n }),
      fc.string(),
      fc.array(tie('all'), { maxLength: 3 }),
    ),
  })).all;
  fc.assert(
    fc.property(value, (each) => {
      const text = JSON.stringify(each, (_, item: unknown) =>
        typeof item === 'bigint' ? `big${item}` : item,
      ).replaceAll(/"big(\d+)"/g, '$1');
      assert.deepEqual(parseValue(text), each);
      assert.deepEqual(parseValue(formatValue(parseValue(text))), each);
    }),
  );
});

test('a folder is loaded whole, and its promises are complete', async () => {
  const good = {
    'lab.yaml': `${head}${check}expected: { right: passed, wrong: { '*': failed } }\n`,
    'solutions/right/a.py': '',
    'solutions/wrong/b.py': '',
  };
  assert.equal(await loading(good), 'loaded');
  assert.match(await loading({}), /has no lab\.yaml/);
  assert.match(await loading({ ...good, 'test/x': '' }), /test\/x is no part of a lab/);
  assert.match(await loading({ ...good, 'solutions/third/a.py': '' }), /third promises nothing/);
  assert.equal(
    await loading({ ...good, 'solutions/third/a.py': '', 'solutions/third/expect.yaml': 'one: timeout' }),
    'loaded',
  );
  assert.match(
    await loading({ ...good, 'solutions/third/a.py': '', 'solutions/third/expect.yaml': 'two: timeout' }),
    /of two, which is no check/,
  );
  assert.match(
    await loading({ ...good, 'solutions/third/a.py': '', 'solutions/third/expect.yaml': '{}' }),
    /promises nothing of check one/,
  );
  assert.match(
    await loading({ ...good, 'solutions/third/a.py': '', 'solutions/third/expect.yaml': 'one: fine' }),
    /^solutions\/third\/expect\.yaml/,
  );
  assert.match(
    await loading({ ...good, 'solutions/third/a.sh': '', 'solutions/third/expect.yaml': 'failed' }),
    /a\.sh is not asked for/,
  );
  assert.match(await loading({ ...good, 'solutions/right/expect.yaml': 'passed' }), /promises twice/);
  assert.match(
    await loading({ 'lab.yaml': good['lab.yaml'].replace('[echo]', '[echo], stdinFile: in.txt') }),
    /^lab\.yaml:10: checks\[0\]\.run\.stdinFile tests\/in\.txt does not exist/,
  );
});

const link = (target: string, name: string) => async (directory: string) =>
  symlink(target, join(directory, name));

test('links and special files in a lab folder are refused', async () => {
  const files = { 'lab.yaml': head + check, 'tests/a': 'x' };
  assert.match(
    await loading(files, link('/etc/passwd', 'tests/b')),
    /tests\/b is neither a file nor a directory/,
  );
  assert.match(await loading(files, link('tests', 'start')), /start is neither/);
  assert.match(
    await loading(files, async (directory) => {
      await rm(join(directory, 'lab.yaml'));
      await writeFile(join(directory, 'tests/lab.yaml'), head + check);
      await symlink('tests/lab.yaml', join(directory, 'lab.yaml'));
    }),
    /lab\.yaml is no plain file/,
  );
  assert.match(
    await loading(files, async (directory) => {
      await mkdir(join(directory, `tests/${'d/'.repeat(20)}`), { recursive: true });
    }),
    /directories deep/,
  );
});

test('the labs that come with Carrel are well formed', async () => {
  for (const name of ['reach-number', 'first-namespaces']) {
    const { lab, solutions, start } = await loadLab(join(import.meta.dirname, '../../../labs', name));
    assert.equal(lab.name, name);
    assert.equal(lab.points, 10);
    assert.ok(solutions.length >= 6);
    assert.ok(start.some(({ path }) => path === 'README.md'));
  }
});
