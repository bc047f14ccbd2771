import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite, test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { until } from '#base/deadline.ts';
import { launch } from '#host/launch.ts';
import { holdings, withoutKvm } from '#kvm/testing.ts';
import { compileGuest, kit } from './image/compile.ts';
import { createMachine, type VcpuResult } from './machine.ts';
import { defaultShareLimits } from './share.ts';
import { modes } from './modes/table.ts';
import { code, compile, run } from './testing.ts';
import { VcpuThread } from './vcpu-worker.ts';

const hlt = 0xf4;
const spin = [0xeb, 0xfe];

const le32 = (value: number): number[] => [...new Uint8Array(Uint32Array.of(value).buffer)];

suite('faults are explained', { skip: withoutKvm }, () => {
  const cases: readonly (readonly [
    name: string,
    bytes: readonly number[],
    rip: bigint,
    vector: number | undefined,
    cause: RegExp,
  ])[] = [
    ['ud2', [0x90, 0x0f, 0x0b], 1n, 6, /never valid/],
    ['no instruction at all', [0x06], 0n, 6, /no instruction/],
    ['a division by zero', [0x31, 0xc9, 0xf7, 0xf1], 2n, 0, /division by zero/],
    [
      'a store beyond 2 MiB',
      [0xc7, 0x04, 0x25, ...le32(0x200000), ...le32(1)],
      0n,
      14,
      /writes to 0x200000: not mapped: PD\[1\] is not present/,
    ],
    ['a jump beyond 2 MiB', [0xb8, ...le32(0x300000), 0xff, 0xe0], 0x300000n, 14, /there is no code/],
    ['a lgdt from nowhere', [0x0f, 0x01, 0x14, 0x25, ...le32(0x400000)], 0n, 14, /reads from 0x400000/],
    ['a push without a stack', [0xbc, ...le32(0x10000000), 0x50], 5n, 14, /RSP points nowhere/],
    [
      'an address that is none',
      [0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0x80, 0, 0x48, 0x89, 0x18],
      10n,
      13,
      /not an address/,
    ],
  ];
  for (const [name, bytes, rip, vector, cause] of cases)
    test(name, async () => {
      const { end } = await run(code(...bytes));
      assert.ok(end.kind === 'fault', end.kind);
      assert.match(end.fault.cause, cause);
      assert.deepEqual([end.fault.rip, end.fault.exception?.vector], [rip, vector]);
    });

  test('memory that is not there is told apart from a fault, where there is no paging', async () => {
    const { end } = await run(code(0xa3, ...le32(0x200000), hlt), { mode: 'protected' });
    assert.ok(end.kind === 'fault');
    assert.match(end.fault.cause, /wrote to guest-physical 0x200000/);
  });

  test('code without an end runs into its own page tables, and that is said', async () => {
    const { end } = await run(code(0x90));
    assert.ok(end.kind === 'unknown port' && end.astray);
  });
});

suite('guests on the real KVM', { skip: withoutKvm }, () => {
  test('single steps show each instruction and what it changed, and a guest does not notice', async (context) => {
    const image = await compile(context, 'int main(void) { print("x"); return exits(); }');
    const { steps, end, registers } = await run(image, { steps: 100 });
    assert.equal(end.kind, 'halted');
    assert.equal(registers.rax, 2n); // print and exits, no step among them
    const texts = steps?.map(({ text }) => text) ?? [];
    assert.match(texts[0] ?? '', /^call/);
    assert.equal(texts.at(-1), 'hlt');
    const question = steps?.find(({ text }) => text.startsWith('in '));
    assert.deepEqual(question?.changed, { rax: 2n });
    using machine = createMachine({ mode: 'long', image });
    const [stopped] = await machine.run({ steps: 2 });
    assert.deepEqual([stopped?.steps?.length, stopped?.end.kind], [2, 'steps done']);
    // it stopped between two instructions, and goes on from there
    const [rest] = await machine.run();
    assert.deepEqual([rest?.end.kind, rest?.output, rest?.registers.rax], ['halted', 'x', 2n]);
  });

  test('the trace has every exit with its port and data, the answers of the host too', async (context) => {
    const image = await compile(context, 'int main(void) { outb(0xe9, 65); return exits(); }', 'protected');
    const { trace } = await run(image, { mode: 'protected', trace: true });
    assert.equal(trace?.dropped, 0);
    assert.deepEqual(
      trace?.exits.map(({ number, reason, port, direction, size, value }) => [
        number,
        reason,
        port,
        direction,
        size,
        value,
      ]),
      [
        [1, 'IO', 0xe9, 'out', 1, 65],
        [2, 'IO', 0xea, 'in', 4, 2],
        [3, 'HLT', undefined, undefined, undefined, undefined],
      ],
    );
  });

  test('a fault ends only its vCPU, and each has a memory of its own', async (context) => {
    // whoever comes first finds 0 in its own memory, and so does the other one
    const image = await compile(
      context,
      `static volatile int seen;
       int main(void) {
         struct translation place;
         translate((void *)&seen, &place);
         print_number(seen++);
         if (place.guest_physical >= 0x200000) *(volatile int *)0x200000 = 1;
         return 42;
       }`,
    );
    using machine = createMachine({ mode: 'long', image, vcpus: 3 });
    const results = await machine.run({ limitMs: 120_000 });
    assert.deepEqual(
      results.map(({ output, end }) => [output, end.kind]),
      [
        ['0\n', 'halted'],
        ['0\n', 'fault'],
        ['0\n', 'fault'],
      ],
    );
  });

  test('a guest that prints for ever is ended by its output', async () => {
    const { end, output } = await run(code(0xe6, 0xe9, 0xeb, 0xfc), { outputLimit: 1000 });
    assert.deepEqual([end, output.length], [{ kind: 'output limit', bytes: 1000 }, 1000]);
  });

  test('a run is stopped from outside', async () => {
    const abort = new AbortController();
    using machine = createMachine({ mode: 'long', image: code(0xb0, 0x0a, 0xe6, 0xe9, ...spin), vcpus: 2 });
    const lines: number[] = [];
    const running = machine.run({
      signal: abort.signal,
      limitMs: 60_000,
      onLine(vcpu) {
        lines.push(vcpu);
        if (lines.length === 2) abort.abort();
      },
    });
    assert.throws(() => machine.close(), /running/);
    const results = await running;
    assert.deepEqual(
      lines.toSorted((a, b) => a - b),
      [0, 1],
    );
    for (const { end, exits } of results) assert.deepEqual([end.kind, exits.total], ['stopped', 1]);
    const [early] = await machine.run({ signal: AbortSignal.abort() });
    assert.equal(early?.end.kind, 'stopped');
  });

  test('threads are used again, and nothing of KVM is left', async () => {
    await run(code(hlt));
    const before = holdings();
    for (let round = 0; round < 50; round += 1) assert.equal((await run(code(hlt))).end.kind, 'halted');
    assert.deepEqual(holdings(), before);
    using machine = createMachine({ mode: 'long', image: code(hlt), vcpus: 8 });
    await machine.run();
    machine.close();
    const { threads } = await until(120_000, 'threads beyond the kept ones to end', () =>
      holdings().threads <= before.threads + 3 ? holdings() : undefined,
    );
    assert.ok(threads >= before.threads);
  });

  test('a thread that fails is an error of ours, and the next run has another thread', async () => {
    using machine = createMachine({ mode: 'long', image: code(hlt) });
    const [first] = machine.vcpus;
    assert.ok(first);
    const order = {
      vcpu: { ...first.vcpu.handle, fd: -1 },
      memory: machine.memory.handle,
      base: 0,
      tables: 0x2000,
      imageEnd: 1,
      mode: 'long',
      ports: 'carrel',
      vmcallSites: undefined,
      share: undefined,
      shareLimits: defaultShareLimits,
      disk: undefined,
      outputLimit: 1,
      trace: 0,
      live: false,
    } as const;
    const { page } = first.vcpu;
    const { signal } = new AbortController();
    await using thread = new VcpuThread({ order, page, onLine: () => undefined });
    await assert.rejects(thread.go({ limitMs: 1000, signal }), /KVM_RUN: EBADF/);
    assert.equal((await run(code(hlt))).end.kind, 'halted');
  });

  test('a process may exit while a guest spins', async () => {
    const machine = fileURLToPath(new URL('machine.ts', import.meta.url));
    const image = fileURLToPath(new URL('image/image.ts', import.meta.url));
    const program = `
      import { createMachine } from ${JSON.stringify(machine)};
      import { flatImage } from ${JSON.stringify(image)};
      const machine = createMachine({ mode: 'long', image: flatImage(Uint8Array.of(0xb0, 0x0a, 0xe6, 0xe9, 0xeb, 0xfe)) });
      await machine.run({ limitMs: 60_000, onLine: () => process.exit(7) });`;
    const { status, timedOut, stderr } = await launch(
      [process.execPath, '--input-type=module', '-e', program],
      {
        timeoutMs: 120_000,
      },
    );
    assert.deepEqual([status, timedOut], [7, false], stderr.toString('utf8'));
  });

  test('an image that reaches into 0x2000 gets its tables behind it, and runs', async (context) => {
    const image = await compile(
      context,
      'static volatile char large[0x6000]; int main(void) { large[0x5fff] = 42; return large[0x5fff]; }',
    );
    assert.ok(image.end > 0x6000);
    const { registers, end } = await run(image);
    assert.deepEqual([end.kind, registers.rax], ['halted', 42n]);
  });

  test('every example of the kit runs, and the template compiles in all modes that have C', async (context) => {
    const share = await mkdtemp(join(tmpdir(), 'carrel-vmm-share-'));
    context.after(() => rm(share, { recursive: true }));
    const outputs: Record<string, string> = {};
    for (const name of ['print', 'files', 'seek', 'translate']) {
      const image = await compileGuest(join(kit, 'examples', `${name}.c`), modes.long);
      const { end, output } = await run(image, { share });
      assert.equal(end.kind, 'halted', name);
      outputs[name] = output;
    }
    assert.match(outputs['print'] ?? '', /exits for it, besides the one that asks: 1\nIO in: 3\nIO out: 3\n/);
    assert.equal(outputs['files'], 'nothing to read\n');
    assert.equal(outputs['seek'], '345\n');
    assert.equal(await readFile(join(share, 'copy.txt'), 'utf8'), '345');
    for (const name of ['real', 'protected', 'long'] as const) {
      const image = await compileGuest(join(kit, 'template.c'), modes[name]);
      assert.equal((await run(image, { mode: name })).output, 'Hello, world!\n');
    }
  });

  test('what does not compile says what the compiler says', async (context) => {
    await assert.rejects(
      compile(context, 'int main(void) { return nothing; }'),
      /does not compile for 64-bit mode/,
    );
  });
});

suite('guests of the forks run unchanged', { skip: withoutKvm }, () => {
  const helpers = `
    static uint32_t in32(uint16_t p) { uint32_t v; __asm__("in %1,%0" : "=a"(v) : "Nd"(p) : "memory"); return v; }
    static void out32(uint16_t p, uint32_t v) { __asm__("out %0,%1" : : "a"(v), "Nd"(p) : "memory"); }
    #define P(x) ((uint32_t)(uintptr_t)(x))`;
  /** A guest that knows nothing of our header but the types. */
  const fork = async (context: TestContext, ports: string, body: string): Promise<VcpuResult> => {
    const share = await mkdtemp(join(tmpdir(), 'carrel-fork-'));
    context.after(() => rm(share, { recursive: true }));
    const image = await compile(context, `${helpers}\nint main(void) { ${body} }`);
    return await run(image, { ports, share });
  };

  test('academy-dt: calls by out, results by in, buffer and length in one word', async (context) => {
    const { output, registers } = await fork(
      context,
      'academy-dt',
      `char b[8] = {0};
       out32(0xe8, P("hi\\n"));
       out32(0xeb, P("f.txt")); if (in32(0xe9) != 0) return 1;
       out32(0xed, P("abc") << 11 | 3); if (in32(0xe9) != 3) return 2;
       out32(0xef, 0);
       out32(0xeb, P("f.txt"));
       out32(0xec, P(b) << 11 | 8); if (in32(0xe9) != 3) return 3;
       out32(0xe8, P(b));
       return in32(0xea);`,
    );
    assert.deepEqual([output, registers.rax], ['hi\nabc', 11n]);
  });

  test('bergeramit: buffers that begin with their length', async (context) => {
    const { output, registers } = await fork(
      context,
      'bergeramit',
      `char b[16] = {3, 'Y', 'E', 'S'};
       out32(0xab, 0x1337); if (in32(0xab) != 0xabababab) return 1;
       out32(0x0a, P("temp.txt"));
       out32(0xdc, P(b)); if (in32(0xdc) != 3) return 2;
       out32(0xcf, 0);
       out32(0x0a, P("temp.txt"));
       b[0] = 8; b[1] = 0;
       out32(0xcd, P(b)); uint32_t length = in32(0xcd);
       out32(0xb1, P(b + 1));
       return length;`,
    );
    assert.deepEqual([output, registers.rax], ['YES', 3n]);
  });

  test('cs695: numbers, counts by type, and where a byte is in the host', async (context) => {
    const { output, registers } = await fork(
      context,
      'cs695',
      `char b[64];
       out32(0xea, 2048);
       uint32_t first = in32(0xeb);
       out32(0xed, P(b)); out32(0xec, P(b));
       out32(0xee, P(b)); uint32_t here = in32(0xef);
       out32(0xee, 0x400000); uint32_t nowhere = in32(0xef);
       return first == 2 && (here & 0xfff) == (P(b) & 0xfff) && nowhere == 0;`,
    );
    assert.deepEqual([output, registers.rax], ['2048\nIO in: 1\nIO out: 2\n', 1n]);
  });
});
