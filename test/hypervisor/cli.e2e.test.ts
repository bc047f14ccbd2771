/** What the vmm commands show to people, and their exit codes. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { suite, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { within } from '#base/deadline.ts';
import { patiently } from '#base/patiently.ts';
import { launch } from '#host/launch.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { probeKvm } from '#kvm/probe.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

interface Shown {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

async function vmm(...args: readonly string[]): Promise<Shown> {
  const { status, stdout, stderr } = await launch([process.execPath, 'src/cli/main.ts', 'vmm', ...args], {
    cwd: root,
    timeoutMs: 60_000,
    env: { ...process.env, NO_COLOR: '1' },
  });
  return { status, stdout: stdout.toString('utf8'), stderr: stderr.toString('utf8') };
}

const scheduleJson = z.object({
  policy: z.string(),
  machines: z.array(
    z.object({
      name: z.string(),
      weight: z.number(),
      counted: z.int(),
      end: z.object({ sentence: z.string() }),
    }),
  ),
  timeline: z.object({ dropped: z.int() }),
});

const vmcallJson = z.object({
  vmcall: z.object({ answeredBy: z.string(), simulatedCosts: z.object({ monitorUs: z.number() }) }),
  vcpus: z.array(z.object({ vmcalls: z.object({ simulated: z.boolean(), total: z.int() }) })),
});

suite('the vmm commands', { skip: withoutKvm }, () => {
  test('output is labelled by vCPU; trace and memory follow, the end goes to standard error', async () => {
    const args = ['guests/examples/hello.c', '--vcpus=2', '--trace', '--registers', '--dump=0x400:4'];
    const { status, stdout, stderr } = await vmm('run', ...args);
    assert.equal(status, 0);
    for (const vcpu of [0, 1]) {
      assert.match(stdout, new RegExp(`^\\[vcpu ${vcpu}\\] Hello, world!$`, 'm'));
      assert.match(stdout, new RegExp(`^${vcpu} +1 .*IO +0xe9 +out +1 +0x48 H$`, 'm'));
      assert.match(stderr, new RegExp(`^vcpu ${vcpu}: halted; 15 exits \\(14 IO, 1 HLT\\)`, 'm'));
    }
    assert.match(stdout, /^00000400 {2}2a 00 00 00 /m);
    assert.match(stdout, /^vcpu 1\nRAX {4}000000000000002a {2}RBX /m);
    assert.match(stdout, /CR3 {4}0000000000202000/);
  });

  test('a fault is shown with instruction, exception and page walk, and is exit code 1', async () => {
    const { status, stdout, stderr } = await vmm('run', 'guests/faults/beyond.c');
    assert.deepEqual([status, stdout], [1, 'about to leave\n']);
    assert.match(stderr, /SHUTDOWN: the instruction writes to 0x200000: not mapped: PD\[1\] is not present/);
    assert.match(stderr, /movl \$1,0x200000/);
    assert.match(stderr, /exception 14: #PF page fault/);
    assert.match(stderr, /PD +at 0x4000 +\[ +1\] = 0x0 +not present/);
  });

  test('a map is a drawing, a walk has a line for each level, a step one for each instruction', async () => {
    const map = await vmm('map', 'guests/examples/hello.c');
    assert.match(map.stdout, /CR0 0x80050033 {2}CR3 0x2000 {2}CR4 0x20 {2}EFER 0x500/);
    for (const line of [
      /│ PML4, 1 entry +\[0\] 0x30[0-9a-f]{2} │/,
      /│ code and data, \d+ bytes +│/,
      /0x200000 ┌─+┐ 0x/,
    ])
      assert.match(map.stdout, line);
    const walk = await vmm('walk', '1024', 'guests/examples/hello.c', '--vcpus=2', '--vcpu=1');
    assert.match(
      walk.stdout,
      /PD +at 0x204000 +\[ +0\] = 0x2000[0-9a-f]{2} .*large page\n {2}guest-physical 0x200400/,
    );
    const step = await vmm('step', 'guests/examples/real.S', '--mode=real');
    assert.match(step.stdout, /0x0 +b82a00 +mov \$0x2a,%ax +rax 0x2a\n/);
    assert.match(step.stderr, /^halted$/m);
  });

  test('one page answers the questions, each place in the source is a line, and JSON has the same', async () => {
    const { status, stdout } = await vmm('inspect', 'guests/examples/hello.c');
    assert.equal(status, 0);
    const questions = [...stdout.matchAll(/^a\.(\d) /gm)].map(([, number]) => Number(number));
    assert.deepEqual(questions, [1, 2, 3, 4, 5, 6, 7]);
    for (const place of stdout.match(/src\/\S+\.ts\S*/g) ?? []) assert.match(place, /\.ts:\d+[;,]?\)?$/);
    for (const seen of [
      /0x200000 bytes \(2 MiB\)/,
      /of anon_inode:\S*kvm-vcpu/,
      /uses PML4, PDPT, PD: 3 levels, 3 pages/,
      /port 0xe9 \(233\), out: 14 exits/,
      /virtual 0x400, physical 0x400, host-virtual 0x[0-9a-f]+: 0x0 -> 0x2a \(42\)/,
      /RAX at the end: 0x2a \(42\)/,
    ])
      assert.match(stdout, seen);
    const json: unknown = JSON.parse((await vmm('inspect', 'guests/examples/hello.c', '--json')).stdout);
    assert.partialDeepStrictEqual(json, { mode: 'long', vcpus: [{ result: { end: { kind: 'halted' } } }] });
  });

  test('hello runs all modes that the host has, and says why one is missing', async () => {
    const { kind } = await probeKvm();
    const { status, stdout } = await vmm('hello');
    assert.equal(status, 0);
    const titles = ['real mode', 'protected mode', '32-bit paging', '64-bit mode'];
    assert.deepEqual(
      stdout.match(/^Testing .*$/gm),
      titles.map((title) => `Testing ${title}`),
    );
    assert.match(stdout, /Testing real mode\n {2}1 exit, /);
    assert.match(stdout, /Testing 64-bit mode\nHello, world!\n {2}15 exits, /);
    const paged = await vmm('hello', '--mode=paged');
    if (kind === 'emulating') {
      assert.match(stdout, /Testing 32-bit paging\n {2}not on this host: .*it emulates/);
      assert.equal(paged.status, 4);
      assert.match(paged.stderr, /cannot run guests with 32-bit paging/);
    } else assert.match(paged.stdout, /Hello, world!\n {2}15 exits, /);
    const probe = await vmm('probe');
    assert.match(probe.stdout, /API version 12, kvm_run of \d+ bytes/);
    assert.match(probe.stdout, /^IMMEDIATE_EXIT +yes /m);
    const { systemCalls } = await probeKvm();
    assert.match(
      probe.stdout,
      systemCalls
        ? /^Linux: runs/m
        : /^Linux: .* no further: at user privilege the instruction syscall .*LSTAR/m,
    );
  });

  test('a simulated vmcall says so in every line, in what it costs and in JSON', async () => {
    const guest = 'guests/examples/vmcall.c';
    const { status, stdout, stderr } = await vmm('run', guest, '--vmcall=model', '--trace');
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^kernel log \(simulated\): hello from the guest$/m);
    assert.match(
      stderr,
      /^vcpu 0: 11 vmcalls \(simulated\): 10 add \(101\), 1 print \(102\); none left the kernel$/m,
    );
    assert.match(stderr, /^cost \(simulated\): 11 vmcalls [\d.]+ µs; as port hypercalls [\d.]+ µs$/m);
    assert.match(stdout, /^VCPU +AFTER EXIT +VMCALL \(SIMULATED\) +RBX/m);
    assert.equal(stdout.match(/^0 +1 +add \(101\) +0x28 +0x2 +0x0 +0x0 +0x2a$/gm)?.length, 10);
    const json = await vmm('run', guest, '--vmcall=model', '--json');
    const { vmcall, vcpus } = vmcallJson.parse(JSON.parse(json.stdout));
    assert.deepEqual(
      [vmcall.answeredBy, vcpus[0]?.vmcalls.simulated, vcpus[0]?.vmcalls.total],
      ['model', true, 11],
    );
    const none = await vmm('run', 'guests/examples/hello.c', '--vmcall=model');
    assert.match(none.stderr, /the guest marks no vmcall/);
    assert.equal((await vmm('run', guest, '--vmcall=somebody')).status, 2);
    const probe = await vmm('probe');
    assert.match(probe.stdout, /^VMCALL +WHAT BECOMES OF IT\na call that nobody has +\S/m);
  });

  test('a schedule is drawn, listed and summed up', async () => {
    const chat = 'guests/examples/chat.c';
    const io = await vmm('schedule', chat, chat, '--policy=io', '--slices=12');
    assert.equal(io.status, 0, io.stderr);
    const words = ['one', 'two', 'three', 'four', 'five'];
    assert.deepEqual(
      io.stdout.match(/^\[.*$/gm),
      words.flatMap((word) => [`[A] ${word}`, `[B] ${word}`]),
    );
    assert.match(io.stdout, /^A █ █ █ █ █ █\nB {2}█ █ █ █ █ █$/m);
    assert.equal(io.stdout.match(/^.*I\/O exit$/gm)?.length, 10);
    assert.match(io.stdout, /^B +guests\/examples\/chat.c .* 6 +6 +halted$/m);
    const count = 'guests/examples/count.c';
    const args = [count, count, '--policy=weights', '--weights=70:30', '--slice=5ms', '--counter=0x400'];
    await patiently([1000, 4000, 16_000], async (limitMs) => {
      const seconds = limitMs / 1000;
      const weights = await vmm('schedule', ...args, `--limit=${seconds}s`, '--json');
      assert.equal(weights.status, 0, weights.stderr);
      const { policy, machines, timeline } = scheduleJson.parse(JSON.parse(weights.stdout));
      assert.equal(policy, 'weights');
      assert.deepEqual(
        machines.map(({ name, weight, end }) => [name, weight, end.sentence]),
        [
          ['A', 70, `time limit: ${seconds} s`],
          ['B', 30, `time limit: ${seconds} s`],
        ],
      );
      const [a = 0, b = 0] = machines.map(({ counted }) => counted);
      assert.ok(a > b && b > 0, `${a} and ${b}`);
      assert.equal(timeline.dropped, 0);
    });
    const refused = await vmm('schedule', chat, chat, '--weights=1:2');
    assert.deepEqual([refused.status, refused.stdout], [2, '']);
    const fault = await vmm('schedule', chat, 'guests/faults/divide.c', '--policy=io');
    assert.equal(fault.status, 1);
    assert.match(fault.stdout, /SHUTDOWN: a division by zero/);
  });

  test('what cannot be done is refused before anything runs', async () => {
    const cases: readonly (readonly [args: readonly string[], status: number, said: RegExp])[] = [
      [['run', 'nowhere.bin'], 3, /there is no file nowhere.bin/],
      [['run', 'README.md'], 2, /README.md is no guest/],
      [['run', 'guests/examples/real.S', '--mode=virtual'], 2, /virtual/],
      [['run', 'guests/examples/hello.c', '--mode=real', '--vcpus=2'], 2, /several vCPUs need long mode/],
      [['run', 'guests/examples/hello.c', '--vcpus=0'], 2, /1 to 64 vCPUs/],
      [['run', 'guests/examples/hello.c', '--dump=0x1fffff:2'], 2, /outside of guest memory/],
      [['run', 'guests/examples/hello.c', '--limit=0'], 2, /--limit is 1ms at least/],
      [['walk', 'here'], 2, /here is neither an address nor a symbol/],
      [['walk', '0', '--vcpu=1'], 2, /--vcpu wants a whole number up to 0/],
    ];
    for (const [args, status, said] of cases) {
      const shown = await vmm(...args);
      assert.deepEqual([shown.status, shown.stdout], [status, ''], args.join(' '));
      assert.match(shown.stderr, said);
    }
  });

  test('a guest without an end is ended by Ctrl-C, with what it did until then', async (context) => {
    const directory = await mkdtemp(join(tmpdir(), 'carrel-vmm-'));
    context.after(() => rm(directory, { recursive: true }));
    const guest = join(directory, 'guest.c');
    await writeFile(guest, '#include "carrel.h"\nint main(void) { print("now\\n"); for (;;) ; }\n');
    const argv = ['src/cli/main.ts', 'vmm', 'run', guest, '--limit=60s'];
    const child = spawn(process.execPath, argv, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    const said = text(child.stderr);
    const ended = once(child, 'exit');
    await within(120_000, 'the guest to speak', once(child.stdout, 'data'));
    child.kill('SIGINT');
    const [status] = await within(120_000, 'the command to end', ended);
    assert.equal(status, 130);
    assert.match(await said, /vcpu 0: stopped from outside; 1 exit /);
  });
});
