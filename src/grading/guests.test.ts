/** Guests of the hypervisor as submissions: compiled and run apart, judged outside. */
import assert from 'node:assert/strict';
import { after, before, suite, test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { probeKvm } from '#kvm/probe.ts';
import { type LocalGrader, openLocalGrader } from './local.ts';
import { gradeTexts, summary, type Texts } from './testing.ts';

const lab = (checks: string): string => `title: T
name: t
image: debian-12
run: sandbox
points: 10
submit: { files: [{ pattern: '**' }] }
limits: { wall: 4s, output: 16K }
checks:
${checks}`;

const guest = (id: string, what: string, more = ''): string =>
  `  - { id: ${id}, title: T, ${more} guest: { ${what} } }\n`;

/** So many words of memory that are expected to be 0. */
const zeros = (from: number, count: number): string =>
  Array.from({ length: count }, (_, index) => `{ at: ${from + 8 * index}, value: 0 }`).join(', ');

/** What a share must hold. */
const left = (text: string): string => `files: [{ path: c.txt, exact: "${text}" }]`;

const ask = (id: string, questions: string, mode = 'long'): string =>
  `  - { id: ${id}, title: T, answers: { file: a.yaml, guest: { file: hello.c, mode: ${mode} }, questions: { ${questions} } } }\n`;

const hello = `#include "carrel.h"
int main(void) {
  for (const char *next = "Hello, world!\\n"; *next; next++) outb(PORT_BYTE, *next);
  *(volatile long *)0x400 = 42;
  return 42;
}`;

suite('guests as submissions', { skip: withoutKvm }, () => {
  let grader: LocalGrader;
  before(async () => {
    grader = await openLocalGrader({ slots: 2 });
  });
  after(() => grader.close());

  const verdicts = async (checks: string, submission: Texts, tests: Texts = {}): Promise<string[]> => {
    const result = await gradeTexts(grader, { 'lab.yaml': lab(checks), ...tests }, submission);
    return result.checks.map(({ id }) => summary(result, id));
  };

  test('text, exits by reason and by port, registers and memory are judged, and each can fail', async () => {
    const run = 'file: hello.c';
    const found = await verdicts(
      guest('text', `${run}, expect: { output: { exact: "Hello, world!\\n" } }`) +
        guest('exits', `${run}, expect: { exits: { total: 15, IO: 14, HLT: { min: 1, max: 1 } } }`) +
        guest('ports', `${run}, expect: { ports: { 0xE9: { out: 14 }, 232: { out: 0, in: { max: 0 } } } }`) +
        guest('registers', `${run}, expect: { registers: { rax: 42, eax: 42, ax: 42 } }`) +
        guest(
          'memory',
          `${run}, expect: { memory: [{ at: 0x400, value: 42 }, { at: 0x401, bytes: 1, value: 0 }] }`,
        ) +
        guest('wrong-text', `${run}, expect: { output: { lines: [Hello] } }`) +
        guest('wrong-exits', `${run}, expect: { exits: { IO: { max: 13 } } }`) +
        guest('wrong-ports', `${run}, expect: { ports: { 0xE9: { out: 1 } } }`) +
        guest('wrong-registers', `${run}, expect: { registers: { eax: -1 } }`) +
        guest('wrong-memory', `${run}, expect: { memory: [{ at: 0x400, value: 43 }] }`) +
        guest('wrong-end', `${run}, expect: { end: fault }`) +
        guest('hidden', `${run}, expect: { registers: { rax: 7 } }`, 'visibility: hidden,'),
      { 'hello.c': hello },
    );
    const right = ['passed 0.84: as expected', 'passed 0.84: as expected', 'passed 0.84: as expected'];
    assert.deepEqual(found.slice(0, 3), right);
    assert.match(found[3] ?? '', /^passed/);
    assert.match(found[4] ?? '', /^passed/);
    assert.deepEqual(found.slice(5), [
      'failed 0: the guest: its output has "Hello, world!" in line 1, expected "Hello"',
      'failed 0: the guest: took 14 exits by IO, expected at most 13',
      'failed 0: the guest: took 14 exits by out to port 0xe9, expected 1',
      'failed 0: the guest: left 42 in EAX, expected -1',
      'failed 0: the guest: left 42 in memory at 0x400, expected 43',
      'failed 0: the guest ended otherwise than by fault: halted',
      'failed 0: the guest: did not leave what is expected in RAX',
    ]);
  });

  test('every way to end has its verdict', async () => {
    const ends: Readonly<Record<string, readonly [text: string, verdict: RegExp]>> = {
      'spin.c': ['int main(void) { for (;;); }', /^timeout 0: the guest did not halt: time limit: 4 s/],
      'port.c': [
        '#include "carrel.h"\nint main(void) { outb(0x77, 1); return 0; }',
        /^failed 0: the guest did not halt: unknown port 0x77 \(119\), direction out/,
      ],
      'pointer.c': [
        '#include "carrel.h"\nint main(void) { print((char *)0x80000000); return 0; }',
        /^crashed 0: the guest did not halt: bad pointer in print: 0x80000000/,
      ],
      'fault.c': [
        'int main(void) { __asm__ volatile("ud2"); return 0; }',
        /^crashed 0: the guest did not halt: SHUTDOWN: .*never valid/,
      ],
      'talk.c': [
        '#include "carrel.h"\nint main(void) { for (;;) print("0123456789abcdef\\n"); }',
        /^failed 0: the guest did not halt: output limit: 16 KiB/,
      ],
      'wrong.c': ['int main(void) { return nothing; }', /^failed 0: does not compile: .*nothing/],
      'library.c': [
        '#include <stdio.h>\nint main(void) { puts(""); }',
        /^failed 0: does not compile: .*stdio/,
      ],
      'large.c': [
        'char room[0x1f0000] = {1}; int main(void) { return 0; }',
        /^failed 0: the guest cannot be run: /,
      ],
      'real.S': ['.code16\n.globl _start\n_start: mov $7, %ax\nhlt', /^failed 0: the guest: left 7 in RAX/],
    };
    const checks = Object.keys(ends)
      .map((file) => {
        const mode = file === 'real.S' ? 'real' : 'long';
        return guest(
          file.replace('.', '-').toLowerCase(),
          `file: ${file}, mode: ${mode}, expect: { registers: { rax: 0 } }`,
        );
      })
      .join('');
    const submission = Object.fromEntries(Object.entries(ends).map(([file, [text]]) => [file, text]));
    const found = await verdicts(checks, submission);
    for (const [index, [, pattern]] of Object.values(ends).entries())
      assert.match(found[index] ?? '', pattern);
  });

  test('an author’s test is linked with the student’s part, and cannot be read by it', async () => {
    const checks =
      guest(
        'sum',
        'test: main.c, with: [part.c], files: [{ from: part.h, to: part.h }], expect: { registers: { eax: 5 } }',
      ) +
      guest(
        'spy',
        'test: main.c, with: [spy.c], files: [{ from: part.h, to: part.h }], expect: { registers: { eax: 5 } }',
      ) +
      guest(
        'empty',
        'test: main.c, with: [empty.c], files: [{ from: part.h, to: part.h }], expect: { registers: { eax: 5 } }',
      ) +
      guest(
        'kit',
        'test: main.c, with: [kit.c], kit: ports, files: [{ from: part.h, to: part.h }], expect: { registers: { eax: 5 } }',
      ) +
      guest('author', 'test: broken.c, expect: { registers: { eax: 5 } }') +
      guest('absent', 'test: main.c, with: [none.c], expect: { registers: { eax: 5 } }');
    const found = await verdicts(
      checks,
      {
        'part.c': '#include "part.h"\n#include "ports.h"\nint add(int a, int b) { return a + b; }',
        'spy.c':
          '#include "part.h"\n__asm__(".incbin \\"main.c\\"");\nint add(int a, int b) { return a + b; }',
        'empty.c': '',
        'kit.c': '#include "part.h"\n#include "carrel.h"\nint add(int a, int b) { return a + b; }',
      },
      {
        'tests/part.h': 'int add(int a, int b);',
        'tests/main.c': '#include "carrel.h"\n#include "part.h"\nint main(void) { return add(2, 3); }',
        'tests/broken.c': 'int main(void) { return nothing; }',
      },
    );
    assert.match(found[0] ?? '', /^passed/);
    assert.match(found[1] ?? '', /^failed 0: does not compile: .*main\.c/);
    assert.match(found[2] ?? '', /^failed 0: does not compile: .*undefined reference to .add/);
    assert.match(found[3] ?? '', /^failed 0: does not compile: .*carrel\.h/);
    assert.match(found[4] ?? '', /^error 0: tests\/broken\.c does not compile/);
    assert.match(found[5] ?? '', /^failed 0: none\.c was not handed in/);
  });

  test('files of the share: what is there before, what is left, and what a second run finds', async () => {
    const files = `#include "carrel.h"
int main(void) {
  char buffer[64];
  open("c.txt");
  int length = read(buffer, 63);
  buffer[length > 0 ? length : 0] = 0;
  print(buffer);
  write("test\\n", 5);
  close();
  return length;
}`;
    const found = await verdicts(
      guest('first', `file: f.c, share: [], expect: { ${left('test\\n')}, registers: { eax: 0 } }`) +
        guest(
          'second',
          `file: f.c, share: [], runs: 2, expect: { ${left('test\\ntest\\n')}, registers: { eax: 5 }, output: { exact: "test\\n" } }`,
        ) +
        guest(
          'given',
          `file: f.c, share: [{ path: c.txt, text: "given " }], expect: { ${left('given test\\n')} }`,
        ) +
        guest(
          'from',
          `file: f.c, share: [{ path: c.txt, from: c }], expect: { output: { exact: "of the tests" } }`,
        ) +
        guest('other', 'file: f.c, share: [], expect: { files: [{ path: d.txt, exact: "" }] }') +
        guest('absent', 'file: f.c, share: [], expect: { files: [{ path: c.txt, absent: true }] }') +
        guest('none', 'file: f.c, expect: { registers: { eax: 0 } }') +
        // a file of its own limit, in a run of its own: one that is too large to be read is there all the same
        guest(
          'large',
          'file: f.c, share: [{ path: x, text: "" }], expect: { files: [{ path: c.txt, absent: true, maxSize: 2 }] }',
        ),
      { 'f.c': files },
      { 'tests/c': 'of the tests' },
    );
    for (const index of [0, 1, 2, 3]) assert.match(found[index] ?? '', /^passed/, found[index]);
    assert.match(found[4] ?? '', /^failed 0: the file d\.txt is missing/);
    assert.match(found[5] ?? '', /^failed 0: the file c\.txt is there/);
    assert.match(found[6] ?? '', /^failed 0: the guest: left \d+ in EAX/);
    assert.match(found[7] ?? '', /^failed 0: the file c\.txt is there/);
  });

  test('exits for a reason that there is not cannot be expected', async () => {
    await assert.rejects(
      verdicts(guest('typo', 'file: hello.c, expect: { exits: { HALT: 0 } }'), { 'hello.c': hello }),
      (error) =>
        isCarrelError(error, 'lab_invalid') &&
        /exits\.HALT must be total, or one of .*HLT/.test(error.message),
    );
  });

  test('several vCPUs: each is judged for itself', async () => {
    const found = await verdicts(
      guest(
        'both',
        'file: hello.c, vcpus: 2, expect: { output: { exact: "Hello, world!\\n" }, exits: { total: 15 } }',
      ) +
        guest(
          'each',
          'file: hello.c, vcpus: 2, expect: { vcpus: [{ registers: { rax: 42 } }, { registers: { rax: 1 } }] }',
        ),
      { 'hello.c': hello },
    );
    assert.match(found[0] ?? '', /^passed/);
    assert.equal(found[1], 'failed 0: vCPU 1: left 42 in RAX, expected 1');
  });

  test('answers are compared with the machine that the student’s own guest runs in', async () => {
    const found = await verdicts(
      ask(
        'right',
        'size: memory.bytes, tables: "table.entry:0x2000", unmapped: "walk:0x200000", exits: exits.total',
      ) +
        ask('half', 'size: memory.bytes, code: code.to') +
        ask('none', 'missing: memory.bytes') +
        ask('other', 'cr3: "start:cr3"', 'protected') +
        ask('author', 'size: "table.at:PML4"', 'protected'),
      {
        'hello.c': hello,
        'a.yaml': 'size: 2 MiB\ntables: 0x3007\nunmapped: Not  mapped\nexits: 15\ncode: 1\ncr3: 0x2000\n',
      },
    );
    assert.match(found[0] ?? '', /^passed/, found[0]);
    assert.equal(found[1], 'partial 1: code: the machine does not say "1"');
    assert.equal(found[2], 'failed 0: missing is not answered');
    assert.equal(found[3], 'failed 0: cr3: the machine does not say "8192"');
    assert.match(found[4] ?? '', /^error 0: a machine in protected mode has no table\.at:PML4/);
    const [broken] = await verdicts(ask('broken', 'size: memory.bytes'), {
      'hello.c': hello,
      'a.yaml': 'a: [',
    });
    assert.match(broken ?? '', /^failed 0: a\.yaml:1/);
  });

  test('more words of memory than a run reports are the author’s mistake, and no fault that is tried again', async () => {
    const checks = Array.from({ length: 5 }, (_, index) =>
      guest(`words-${index}`, `file: hello.c, expect: { memory: [${zeros(0x10_0000 + 512 * index, 64)}] }`),
    );
    const found = await verdicts(checks.join(''), { 'hello.c': hello });
    for (const each of found) assert.match(each, /^error 0: .* 320 words of memory, and 256 are the most/);
  });

  test('a mode that the host lacks is thrown with the reason, and is no grade', async (context) => {
    if ((await probeKvm()).kind !== 'emulating') return context.skip('this host has every mode');
    await assert.rejects(
      verdicts(guest('paged', 'file: hello.c, mode: paged, expect: { registers: { rax: 42 } }'), {
        'hello.c': hello,
      }),
      (error) => isCarrelError(error, 'host_unsupported') && /32-bit paging/.test(error.message),
    );
  });
});
