import assert from 'node:assert/strict';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import * as fc from 'fast-check';
import { kvmRun } from '#kvm/abi/structs.ts';
import { probeKvm } from '#kvm/probe.ts';
import { zeroRegisters } from '#kvm/registers.ts';
import { RunPage } from '#kvm/runpage.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { ExitCounters } from '../counters.ts';
import { describeEnd } from '../end.ts';
import type { Guest } from '../guest.ts';
import { compileGuest, kit } from '../image/compile.ts';
import { flatImage, type GuestImage } from '../image/image.ts';
import { windowBytes } from '../layout.ts';
import { createMachine, type RunOptions, type VcpuResult } from '../machine.ts';
import type { ModeName } from '../modes/mode.ts';
import { modes } from '../modes/table.ts';
import { GuestOutput } from '../output.ts';
import { schedule } from '../schedule/schedule.ts';
import { Share } from '../share.ts';
import { compile, run } from '../testing.ts';
import { kernelCalls, mapGpaRange } from './calls.ts';
import { measureExits } from './cost.ts';
import { serveHypercall } from './host.ts';
import { VmcallLog } from './log.ts';
import { describeTrial, fateOf, probeVmcall } from './probe.ts';
import { vmcallSites } from './sites.ts';

const body = (text: string): string => `#include "vmcall.h"\nint main(void) { ${text} }`;

/** Runs a guest whose vmcalls a model answers. */
async function simulate(
  image: GuestImage,
  { mode = 'long', ...options }: RunOptions & { mode?: ModeName } = {},
): Promise<VcpuResult> {
  using machine = createMachine({ mode, image, vmcall: 'model' });
  const [result] = await machine.run({ limitMs: 120_000, ...options });
  assert.ok(result);
  return result;
}

test('a vmcall is where a label says so, and the instruction is there indeed', () => {
  const bytes = Uint8Array.of(0x90, 0x0f, 0x01, 0xc1, 0x0f, 0x01, 0xd9, 0xf4, 0x0f, 0x01);
  const labels = {
    vmcall_a: 1,
    vmcall_again: 1,
    vmcall_amd: 4,
    vmcall_wrong: 7,
    vmcall_cut: 8,
    other: 1,
    vmcall_far: 99,
  };
  const symbols = Object.entries(labels).map(([name, at]) => ({ name, at, size: 0 }));
  assert.deepEqual(vmcallSites({ ...flatImage(bytes), symbols }), [1, 4]);
  assert.deepEqual(vmcallSites(flatImage(bytes)), []);
});

test('what the kernel checks of a range of pages', () => {
  assert.equal(mapGpaRange([0x1000n, 1n, 0n]), 0n);
  for (const words of [[0x1001n, 1n], [0x1000n, 0n], [0x1000n, (1n << 64n) - 1n], []])
    assert.equal(mapGpaRange(words), -22n);
});

test('a call that KVM hands on is answered in kvm_run, one that it should not have is refused', () => {
  const page = new RunPage(new SharedArrayBuffer(4096));
  const log = new VmcallLog(false);
  const call = (nr: bigint, ...words: readonly bigint[]): bigint => {
    page.view.setBigUint64(kvmRun['hypercall.nr'], nr, true);
    for (const [index, word] of words.entries())
      page.view.setBigUint64(kvmRun['hypercall.args'] + index * 8, word, true);
    serveHypercall(page, log, 7);
    return page.view.getBigInt64(kvmRun['hypercall.ret'], true);
  };
  assert.equal(call(12n, 0x2000n, 3n, 0n, 0n), 0n);
  assert.equal(call(12n, 0x2001n, 3n, 0n, 0n), -22n);
  assert.equal(call(101n, 1n, 2n), -1000n);
  const report = log.report();
  assert.deepEqual([report?.simulated, report?.total, report?.exits], [false, 3, 3]);
  assert.deepEqual(report?.last[0], {
    nr: 12n,
    name: 'map_gpa_range',
    words: [0x2000n, 3n, 0n, 0n],
    result: 0n,
    afterExit: 7,
  });
});

test('the fate of a trial, those included that this host may not have', () => {
  const exits = new ExitCounters().snapshot();
  const registers = { ...zeroRegisters, rax: BigInt.asUintN(64, -1000n) };
  const answered = fateOf({ end: { kind: 'halted' }, exits, registers });
  assert.deepEqual(answered, { fate: 'answered', result: -1000n });
  assert.match(describeTrial(answered), /KVM answers -1000 \(-KVM_ENOSYS\), in the kernel/);
  const handed = fateOf({
    end: { kind: 'halted' },
    exits: { ...exits, byReason: { HYPERCALL: 1 } },
    registers: zeroRegisters,
  });
  assert.match(describeTrial(handed), /hands it to the monitor .* answers 0/);
  const endless = fateOf({ end: { kind: 'time limit', ms: 1 }, exits, registers });
  assert.match(describeTrial(endless), /does not come back/);
  const other = fateOf({ end: { kind: 'stopped' }, exits, registers });
  assert.match(describeTrial(other), /neither/);
});

test('of very many calls the last thousand are kept, in order, and few numbers are told apart', () => {
  const log = new VmcallLog(true);
  for (let nr = 0n; nr < 2500n; nr += 1n)
    log.record({ nr, name: undefined, words: [], result: nr, afterExit: 0 }, false);
  const report = log.report();
  assert.deepEqual([report?.total, report?.exits, report?.calls.length], [2500, 0, 64]);
  assert.deepEqual(
    report?.last.map(({ nr }) => nr),
    Array.from({ length: 1000 }, (_, index) => BigInt(1500 + index)),
  );
});

suite('vmcall', { skip: withoutKvm }, () => {
  for (const mode of ['long', 'protected', 'real'] as const)
    test(`the model answers without an exit, and says that it is one (${mode})`, async () => {
      const image = await compileGuest(join(kit, 'examples', 'vmcall.c'), modes[mode]);
      const { output, exits, vmcalls, end, trace } = await simulate(image, { mode, trace: true });
      assert.equal(end.kind, 'halted', describeEnd(end));
      assert.equal(
        output,
        `40 + 2 is 42
exits for ten vmcalls, besides the one that asks: 0
exits for ten ports, besides the one that asks: 10
kernel log (simulated): hello from the guest
`,
      );
      assert.deepEqual(exits.byReason, { IO: 18, HLT: 1 });
      assert.equal(trace?.exits.length, 19);
      const { last = [], ...counts } = vmcalls ?? {};
      assert.deepEqual(
        last.map(({ name, result, afterExit }) => [name, result, afterExit]),
        [...Array.from({ length: 10 }, () => ['add', 42n, 1]), ['print', 20n, 18]],
      );
      assert.deepEqual(counts, {
        simulated: true,
        total: 11,
        exits: 0,
        calls: [
          { nr: 101n, name: 'add', count: 10, result: 42n },
          { nr: 102n, name: 'print', count: 1, result: 20n },
        ],
      });
    });

  test('errors are those of KVM, as wide as the mode', async (context) => {
    const text = body(
      `long wrong = vmcall(7, 0, 0, 0, 0);
       print_number(-wrong);
       print_number(-vmcall(VMCALL_PRINT, 0x80000000, 0, 0, 0));
       print_number(-vmcall(VMCALL_MAP_GPA_RANGE, 0x1001, 1, 0, 0));
       print_number(vmcall(VMCALL_MAP_GPA_RANGE, 0x1000, 1, 0, 0));
       print_number(vmcall(VMCALL_POLL_IRQ, 0, 0, 0, 0));
       print_number(vmcall(VMCALL_EXITS, 0, 0, 0, 0));
       return wrong < 0 && sizeof wrong * 8 == GUEST_BITS;`,
    );
    for (const mode of ['long', 'protected'] as const) {
      const { output, registers, vmcalls } = await simulate(await compile(context, text, mode), { mode });
      assert.deepEqual([output, registers.rax], ['1000\n14\n22\n0\n0\n5\n', 1n], mode);
      // only the call that the kernel hands on is an exit
      assert.deepEqual([vmcalls?.total, vmcalls?.exits], [6, 1]);
    }
  });

  test('only the marked places are calls: the port itself is unknown', async (context) => {
    const image = await compile(context, body('return inl(0xf7) + vmcall(1, 0, 0, 0, 0);'));
    assert.match(describeEnd((await simulate(image)).end), /unknown port 0xf7/);
  });

  test('each vCPU has its calls, and machines on one core have theirs', async (context) => {
    const image = await compile(
      context,
      body('for (int round = 0; round < 3; round++) vmcall(VMCALL_ADD, 1, 1, 0, 0); return exits();'),
    );
    using two = createMachine({ mode: 'long', image, vcpus: 2, vmcall: 'model' });
    for (const { vmcalls, registers } of await two.run({ limitMs: 120_000 }))
      assert.deepEqual([vmcalls?.total, registers.rax], [3, 1n]);
    using a = createMachine({ mode: 'long', image, vmcall: 'model' });
    using b = createMachine({ mode: 'long', image, vmcall: 'model' });
    const { machines } = await schedule([a, b], { policy: 'io' });
    for (const { end, exits, slices } of machines)
      assert.deepEqual([end.kind, exits.total, slices], ['halted', 2, 2]);
  });

  test('single steps go over a simulated call like over any instruction', async (context) => {
    const image = await compile(context, body('return vmcall(VMCALL_ADD, 20, 22, 0, 0);'));
    const { steps, end, registers, exits } = await simulate(image, { steps: 100 });
    assert.deepEqual([end.kind, registers.rax, exits.total], ['halted', 42n, 1]);
    assert.deepEqual(
      steps?.filter(({ changed }) => changed.rax === 42n).length,
      1,
      steps?.map(({ text }) => text).join('\n'),
    );
  });

  test('whatever a guest has in its registers, a call gives it a number and nobody else’s memory', () => {
    const canary = 0xc5;
    using machine = createMachine({ mode: 'long', image: flatImage(Uint8Array.of(0xf4)), vcpus: 3 });
    const { memory } = machine;
    memory.bytes.fill(canary, 0, windowBytes);
    memory.bytes.fill(canary, 2 * windowBytes);
    let printed = '';
    const guest: Guest = {
      ...machine.vcpuAt(1),
      mode: 'long',
      imageEnd: 1,
      output: new GuestOutput({ limit: 2 ** 30, onLine: (line) => (printed += line) }),
      outputLimit: 2 ** 30,
      counters: new ExitCounters(),
      share: new Share(undefined),
      disk: undefined,
      vmcall: new VmcallLog(true),
      lastResult: 0,
    };
    const word = fc.oneof(
      fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      fc.bigInt({ min: 0n, max: BigInt(2 * windowBytes) }),
    );
    fc.assert(
      fc.property(fc.constantFrom(...kernelCalls), fc.array(word, { maxLength: 4 }), (call, words) => {
        const answer = call.run(guest, words);
        assert.equal(BigInt.asIntN(64, answer), answer);
      }),
      { numRuns: 500 },
    );
    guest.output.flush();
    assert.match(printed, /^(?:kernel log \(simulated\):[ -~]*\n)*$/);
    assert.ok(memory.bytes.subarray(0, windowBytes).every((byte) => byte === canary));
    assert.ok(memory.bytes.subarray(2 * windowBytes).every((byte) => byte === canary));
  });

  test('the host is asked, and its answer fits the KVM that it has', async (context) => {
    const { kind } = await probeKvm();
    const { unknown } = await probeVmcall();
    assert.deepEqual(
      unknown,
      kind === 'emulating' ? { fate: 'invalid', result: undefined } : { fate: 'answered', result: -1000n },
    );
    // with a table for exceptions a guest finds out by itself
    const { output, end } = await run(
      await compile(
        context,
        `#include "idt.h"
         #include "vmcall.h"
         int main(void) {
           idt_install();
           const struct fault *fault = survive();
           print_number(fault ? fault->vector : -vmcall(0x7fff, 0, 0, 0, 0));
           return 0;
         }`,
      ),
    );
    assert.deepEqual([output, end.kind], [kind === 'emulating' ? '6\n' : '1000\n', 'halted']);
  });

  test('what an exit costs is measured, by the instruction that this host has for it', () => {
    const { monitorUs, kernelUs, kernelBy } = measureExits('invalid');
    assert.ok(monitorUs > 0 && kernelUs >= 0, `${monitorUs} and ${kernelUs}`);
    assert.equal(kernelBy, 'cpuid');
  });
});
