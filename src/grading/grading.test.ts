/** Labs of every kind in real sandboxes. */
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { type LocalGrader, openLocalGrader } from './local.ts';
import { proveLab } from './prove.ts';
import { type Texts, gradeTexts, summary, temporaryTree } from './testing.ts';

let grader: LocalGrader;
before(async () => {
  grader = await openLocalGrader({ slots: 2 });
});
after(() => grader.close());

const labYaml = (checks: string, more = ''): string => `title: T
name: t
image: debian-12
run: sandbox
points: 10
submit: { files: [{ pattern: '**' }] }
${more}
checks:
${checks}`;

const grade = (checks: string, submission: Texts, tests: Texts = {}, more = '') =>
  gradeTexts(grader, { 'lab.yaml': labYaml(checks, more), ...tests }, submission);

test('end to end: six solutions of reach-number get what they promise, an undefined name its error text (O43)', async () => {
  const proof = await proveLab(join(import.meta.dirname, '../../labs/reach-number'), grader, () => {}, {
    parallel: 2,
  });
  assert.deepEqual(
    proof.solutions.flatMap(({ mismatches }) => mismatches),
    [],
  );
  assert.ok(proof.ok);
  assert.deepEqual([proof.unproven, proof.problems], [[], []]);
  const points = Object.fromEntries(proof.solutions.map(({ name, points }) => [name, points]));
  assert.deepEqual(points, {
    'closed-form': 10,
    'step-by-step': 10,
    'forgets-negatives': 6.67,
    'greedy-loop': 3.33,
    'undefined-name': 0,
    forger: 0,
  });
  const undefinedName = proof.solutions.find(({ name }) => name === 'undefined-name');
  assert.equal(undefinedName?.checks.length, 9);
  for (const { reason } of undefinedName?.checks ?? [])
    assert.match(reason, /^NameError: name 'targt' is not defined/);
});

test('a command is judged by status, output, files, time and memory', async () => {
  const checks = `
  - { id: out, title: Out, run: { argv: [sh, main.sh], stdin: "5 7", expect: { stdout: { numbers: { values: [12] } } } } }
  - { id: file, title: File, run: { argv: [sh, main.sh], expect: { files: [{ path: out/note.txt, lines: [done] }, { path: junk, absent: true }] } } }
  - { id: status, title: Status, run: { argv: [sh, main.sh, fail], expect: { status: 3, stderr: { contains: sorry } } } }
  - { id: signal, title: Signal, run: { argv: [sh, main.sh, crash], expect: { signal: SIGABRT } } }
  - { id: test-file, title: Test file, run: { argv: [sh, main.sh], stdinFile: in.txt, files: [{ from: in.txt, to: given.txt }], expect: { stdout: { regex: '^given 40 2$' } } } }
  - { id: memory, title: Memory, run: { argv: [sh, main.sh], expect: { maxMemory: 64M, maxWall: 20s } } }
  - { id: wrong, title: Wrong, visibility: hidden, run: { argv: [sh, main.sh], stdin: "5 7", expect: { stdout: { exact: "13\\n" } } } }
`;
  const main = `case "$1" in
fail) echo sorry >&2; exit 3;;
crash) kill -ABRT $$;;
esac
read a b
mkdir -p out; echo done > out/note.txt
[ -f given.txt ] && echo "given $(cat given.txt)" && exit
echo $((a + b))
`;
  const result = await grade(checks, { 'main.sh': main }, { 'tests/in.txt': '40 2' });
  for (const id of ['out', 'file', 'status', 'signal', 'test-file', 'memory'])
    assert.match(summary(result, id), /^passed/, summary(result, id));
  assert.equal(summary(result, 'wrong'), 'failed 0: standard output is not as expected');
  assert.equal(result.state, 'graded');
});

test('dependents of a check that fails are skipped with its title', async () => {
  const checks = `
  - { id: a, title: First, run: { argv: ["false"], expect: { status: 0 } } }
  - { id: b, title: Second, needs: [a], run: { argv: ["true"], expect: { status: 0 } } }
  - { id: c, title: Third, needs: [b], run: { argv: ["true"], expect: { status: 0 } } }
  - { id: d, title: Fourth, run: { argv: ["true"], expect: { status: 0 } } }
`;
  const result = await grade(checks, { x: '' });
  assert.equal(summary(result, 'b'), 'skipped 0: not run, because "First" has not passed');
  assert.equal(summary(result, 'c'), 'skipped 0: not run, because "Second" has not passed');
  assert.equal(result.rawPoints, 2.5);
});

const judged = (id: string, say: string) =>
  `  - { id: ${id}, title: J, run: { argv: [echo, ${say}], judge: { argv: [python3, tests/judge.py] } } }\n`;

test('a judge decides outside the sandbox of the run, with partial credit, and its own faults are no verdict', async () => {
  const judge = `import sys, pathlib
tests, seen, feedback = map(pathlib.Path, sys.argv[1:4])
assert not pathlib.Path('main.py').exists()
right = (tests / 'answer').read_text().split()
given = sys.stdin.read().split()
assert (seen / 'stdout').read_text().split() == given
good = sum(a == b for a, b in zip(right, given))
if given == ['boom']: sys.exit(1)
(feedback / 'judgemessage.txt').write_text(f'{good} of {len(right)} words\\nsecond line')
(feedback / 'score.txt').write_text(str(good / len(right)))
sys.exit(42 if good else 43)
`;
  const checks =
    judged('all', 'a b c d') + judged('half', 'a x c y') + judged('none', 'q') + judged('boom', 'boom');
  const result = await grade(
    checks,
    { 'main.py': '' },
    { 'tests/judge.py': judge, 'tests/answer': 'a b c d' },
  );
  assert.equal(summary(result, 'all'), 'passed 2.5: 4 of 4 words second line');
  assert.equal(summary(result, 'half'), 'partial 1.25: 2 of 4 words second line');
  assert.equal(summary(result, 'none'), 'failed 0: 0 of 4 words second line');
  assert.match(
    summary(result, 'boom'),
    /^error 0: the judge exited with status 1, which is neither 42 nor 43/,
  );
  assert.equal(result.state, 'error');
  assert.equal(result.rawPoints, 3.75);
});

const cCheck = (id: string, signature: string, cases: string) =>
  `  - { id: ${id}, title: C, call: { language: c, file: lib.c, function: ${/(\w+)\(/.exec(signature)?.[1]}, signature: "${signature}", cases: [${cases}] } }\n`;

test('C functions are called with numbers and texts, one process per case', async () => {
  const checks =
    cCheck(
      'add',
      'int add(int, int)',
      '{ args: [2, 3], returns: 5 }, { args: [-2147483648, 0], returns: -2147483648 }',
    ) +
    cCheck('big', 'long big(long)', '{ args: [9007199254740993], returns: 9007199254740994 }') +
    cCheck('half', 'double half(double)', '{ args: [3], returns: 1.5, tolerance: 1.0e-9 }') +
    cCheck('hello', 'char *hello(char *)', '{ args: ["wörld\\n"], returns: "hello wörld\\n" }') +
    cCheck('count', 'int count(void)', '{ returns: 1 }, { returns: 1 }') +
    cCheck('crash', 'int crash(int)', '{ args: [1], returns: 1 }') +
    cCheck('missing', 'int missing(int)', '{ args: [1], returns: 1 }');
  const lib = `#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "part.h"
int add(int a, int b) { printf("adding\\n"); return a + b; }
long big(long n) { return n + 1; }
double half(double x) { return x / 2; }
char *hello(char *name) { char *s = malloc(100); strcpy(s, PART); return strcat(s, name); }
static int calls;
int count(void) { return ++calls; }
int crash(int n) { return *(volatile int *)(long)(n - 1); }
int main(void) { return 0; }
`;
  const result = await grade(checks, { 'lib.c': lib, 'part.h': '#define PART "hello "\n' });
  for (const id of ['add', 'big', 'half', 'hello', 'count'])
    assert.match(summary(result, id), /^passed/, summary(result, id));
  assert.equal(result.checks[0]?.stdout, 'adding\n');
  assert.match(summary(result, 'crash'), /^crashed 0: crashed: was ended by SIGSEGV/);
  assert.match(summary(result, 'missing'), /^failed 0: does not compile: .*undefined reference to .missing/);
  const broken = await grade(cCheck('add', 'int add(int, int)', '{ args: [1, 2], returns: 3 }'), {
    'lib.c': 'int add(int a, int b) { return a +; }',
  });
  assert.match(summary(broken, 'add'), /^failed 0: does not compile: lib\.c:1:.*error/);
});

const pythonCheck = (id: string, spec: string) =>
  `  - { id: ${id}, title: P, call: { language: python, file: m.py, function: ${id.replaceAll('-', '_')}, ${spec} } }\n`;

test('Python values of every kind are compared, and exceptions can be what is expected', async () => {
  const checks =
    pythonCheck(
      'data',
      'args: [{ a: [1, null, "ü"] }], returns: [{ a: [1, null, "ü"] }, 18446744073709551617]',
    ) +
    pythonCheck('close', 'returns: 0.3, tolerance: 1.0e-9') +
    pythonCheck('infinite', 'returns: .inf') +
    pythonCheck('refuses', 'args: [0], raises: ValueError') +
    pythonCheck('lookup', 'raises: LookupError') +
    pythonCheck('strange', 'returns: 1') +
    pythonCheck('absent', 'returns: 1') +
    pythonCheck('leaves', 'returns: 1') +
    pythonCheck('deep', 'returns: 1') +
    pythonCheck('threads', 'returns: 7') +
    pythonCheck(
      'odd',
      'cases: [{ args: [1], returns: true }, { args: [2], returns: false }, { args: [3], returns: true }, { args: [4], returns: true }]',
    );
  const m = `import sys, threading, time
def data(x): return [x, 2**64 + 1]
def close(): return 0.1 + 0.2
def infinite(): return float('inf')
def refuses(n): raise ValueError('n must not be 0')
def lookup(): return {}['x']
def strange(): return {1, 2}
def leaves(): sys.exit(0)
def deep(): return deep()
def threads():
    threading.Thread(target=time.sleep, args=(60,)).start()
    return 7
def odd(n): return n % 2 == 1
`;
  const result = await grade(checks, { 'm.py': m });
  for (const id of ['data', 'close', 'infinite', 'refuses', 'lookup', 'threads'])
    assert.match(summary(result, id), /^passed/, summary(result, id));
  assert.match(summary(result, 'strange'), /^failed 0: returned a value of type set/);
  assert.match(summary(result, 'absent'), /^failed 0: there is no function absent/);
  assert.match(summary(result, 'leaves'), /^raised 0: SystemExit: 0/);
  assert.match(summary(result, 'deep'), /^raised 0: RecursionError/);
  assert.match(
    summary(result, 'odd'),
    /^partial 0\.67: 3 of 4 cases are right; odd\(4\) returned false, expected true/,
  );
});

test('a build step is taken once, and its failure fails what needs it', async () => {
  const more = 'build: { argv: [gcc, -o, prog, prog.c], keep: [prog] }';
  const checks = `
  - { id: a, title: A, run: { argv: [./prog, a], expect: { stdout: { exact: "a" } } } }
  - { id: b, title: B, run: { argv: [./prog, b], expect: { stdout: { exact: "b" } } } }
`;
  const good = await grade(
    checks,
    { 'prog.c': '#include <stdio.h>\nint main(int c, char **v) { fputs(v[1], stdout); return c - 2; }' },
    {},
    more,
  );
  assert.equal(good.rawPoints, 10, good.checks[0]?.reason);
  const bad = await grade(checks, { 'prog.c': 'int main(' }, {}, more);
  assert.match(summary(bad, 'a'), /^failed 0: cannot be built: prog\.c:1:.*error/);
  assert.equal(bad.state, 'graded');
});

const hiddenOrNot = (visibility: string) =>
  `  - { id: a, title: A, visibility: ${visibility}, call: { language: python, file: m.py, function: f, returns: 1 } }\n`;

test('a missing file is the student’s, a missing test or pattern without end the author’s', async () => {
  assert.match(
    summary(await grade(hiddenOrNot('visible'), { 'n.py': '' }), 'a'),
    /^failed 0: m\.py was not handed in/,
  );
  assert.equal(
    summary(await grade(hiddenOrNot('hidden'), { 'm.py': 'def f(): return 2' }), 'a'),
    'failed 0: wrong value',
  );
  assert.equal(
    summary(await grade(hiddenOrNot('visible'), { 'm.py': 'def f(): return 2' }), 'a'),
    'failed 0: f() returned 2, expected 1',
  );
  const pattern = `
  - { id: a, title: A, run: { argv: [cat, text], expect: { stdout: { regex: '^(x+)+$' } } } }
  - { id: b, title: B, run: { argv: [cat, text], expect: { stdout: { contains: xy } } } }
`;
  const result = await grade(pattern, { text: `${'x'.repeat(60)}y` });
  assert.match(summary(result, 'a'), /^error 0: .*pattern/);
  assert.match(summary(result, 'b'), /^passed 5/);
  assert.equal(result.state, 'error');
});

test('a program that the image lacks is the author’s fault, in a check and in the build', async () => {
  const missing = `  - { id: a, title: A, run: { argv: [nonesuch, x], expect: { status: 127 } } }\n  - { id: b, title: B, run: { argv: [/usr/bin/nonesuch], expect: { status: 127 } } }\n  - { id: c, title: C, run: { argv: [./mine], expect: { status: 127 } } }\n`;
  const result = await grade(missing, { x: '' });
  assert.equal(summary(result, 'a'), 'error 0: the image debian-12 has no program nonesuch');
  assert.equal(summary(result, 'b'), 'error 0: the image debian-12 has no program /usr/bin/nonesuch');
  assert.match(summary(result, 'c'), /^passed/);
  const noImage = await gradeTexts(
    grader,
    { 'lab.yaml': labYaml(missing).replace('debian-12', 'nonesuch') },
    { x: '' },
  );
  assert.match(summary(noImage, 'c'), /^error 0: There is no .*nonesuch/);
  const built = await grade(missing, { x: '' }, {}, 'build: { argv: [nonesuch], keep: [x] }');
  assert.equal(built.state, 'error');
  assert.equal(built.rawPoints, 0);
});

test('a cancelled grading throws, leaves nothing, and never gives a grade', async () => {
  const stop = new AbortController();
  const checks = `  - { id: a, title: A, limits: { wall: 60s }, run: { argv: [sleep, "50"], expect: { status: 0 } } }\n`;
  const grading = gradeTexts(grader, { 'lab.yaml': labYaml(checks) }, { x: '' }, { signal: stop.signal });
  setTimeout(() => stop.abort(new CarrelError('cancelled', 'enough')), 300);
  await assert.rejects(grading, (error) => isCarrelError(error, 'cancelled'));
});

test('a fault of the runtime is thrown, not graded', async () => {
  const fault = new CarrelError('helper_failed', 'the server went away');
  const broken = { ...grader, sandboxes: { run: () => Promise.reject(fault) } };
  const checks = `  - { id: a, title: A, run: { argv: ["true"], expect: { status: 0 } } }\n`;
  await assert.rejects(
    gradeTexts(broken, { 'lab.yaml': labYaml(checks) }, { x: '' }),
    (error) => error === fault,
  );
});

test('a submission with a link is refused before anything runs', async () => {
  await using tree = await temporaryTree({
    'lab.yaml': labYaml('  - { id: a, title: A, run: { argv: ["true"], expect: { status: 0 } } }'),
  });
  await using other = await temporaryTree({});
  await mkdir(join(other.directory, 'd'));
  const { symlink } = await import('node:fs/promises');
  await symlink('/etc/passwd', join(other.directory, 'd/x'));
  const { loadLab } = await import('./format/folder.ts');
  const { gradeSubmission } = await import('./run.ts');
  const request = { folder: await loadLab(tree.directory), submission: other.directory, submissionId: 's' };
  await assert.rejects(gradeSubmission(request, grader), /d\/x is neither a file nor a directory/);
});
