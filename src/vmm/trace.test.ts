import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { exitReasons } from '#kvm/abi/exits.ts';
import { kvmRun } from '#kvm/abi/structs.ts';
import { RunPage } from '#kvm/runpage.ts';
import { withoutKvm } from '#kvm/testing.ts';
import { flatImage } from './image/image.ts';
import { createMachine } from './machine.ts';
import { ExitTrace } from './trace.ts';

/** A kvm_run as a kernel would leave it. */
function page(): RunPage {
  return new RunPage(new SharedArrayBuffer(8192));
}

function out(run: RunPage, port: number, value: number): RunPage {
  const { view } = run;
  view.setUint32(kvmRun.exit_reason, exitReasons.IO.number, true);
  view.setUint8(kvmRun['io.direction'], 1);
  view.setUint8(kvmRun['io.size'], 4);
  view.setUint16(kvmRun['io.port'], port, true);
  view.setUint32(kvmRun['io.count'], 1, true);
  view.setBigUint64(kvmRun['io.data_offset'], 4096n, true);
  view.setUint32(4096, value, true);
  return run;
}

test('the ring keeps the last exits, counts the lost ones, and continues where it was read', () => {
  const trace = new ExitTrace(4);
  trace.begin();
  const run = page();
  for (let value = 1; value <= 6; value += 1) trace.record(out(run, 0xe9, value));
  const { dropped, exits } = trace.entries();
  assert.equal(dropped, 2);
  assert.deepEqual(
    exits.map(({ number, value }) => [number, value]),
    [3, 4, 5, 6].map((each) => [each, each]),
  );
  assert.deepEqual(trace.entries({ after: 5 }).exits, exits.slice(3));
  assert.deepEqual(trace.entries({ after: 6 }), { dropped: 0, exits: [] });
  const few = trace.entries({ after: 1, most: 2 });
  assert.deepEqual([few.dropped, few.exits.map(({ number }) => number)], [3, [5, 6]]);
});

test('32 bits at the top are a number above zero, and times go forward in nanoseconds', () => {
  const trace = new ExitTrace(4);
  const run = page();
  trace.record(out(run, 0x77, 0xffff_fffe));
  trace.record(out(run, 0x77, 1));
  const [first, second] = trace.entries().exits;
  assert.equal(first?.value, 0xffff_fffe);
  assert.ok(first !== undefined && second !== undefined && second.ns >= first.ns);
  assert.ok(Number.isInteger(first.ns));
});

test('of a memory access the address is known, and as many bytes as it has', () => {
  const trace = new ExitTrace(4);
  const run = page();
  const { view } = run;
  view.setUint32(kvmRun.exit_reason, exitReasons.MMIO.number, true);
  view.setBigUint64(kvmRun['mmio.phys_addr'], 0xfee0_0000n, true);
  view.setBigUint64(kvmRun['mmio.data'], 0x1122_3344_5566_7788n, true);
  view.setUint8(kvmRun['mmio.is_write'], 1);
  const seen = [8, 4, 2, 1].map((size) => {
    view.setUint32(kvmRun['mmio.len'], size, true);
    trace.record(run);
    return trace.entries().exits.at(-1)?.value;
  });
  assert.deepEqual(seen, [0x1122_3344_5566_7788n, 0x5566_7788, 0x7788, 0x88]);
  const [{ address, direction, port, reason } = {}] = trace.entries().exits;
  assert.deepEqual([address, direction, port, reason], [0xfee0_0000, 'out', undefined, 'MMIO']);
});

suite('traces of real guests', { skip: withoutKvm }, () => {
  test('a store where no memory is shows with address and data, as the last exit', async () => {
    // movl $0x11223344, 0x200000: unpaged, so that it leaves the guest
    const code = Uint8Array.of(0xc7, 0x05, 0, 0, 0x20, 0, 0x44, 0x33, 0x22, 0x11, 0xf4);
    using machine = createMachine({ mode: 'protected', image: flatImage(code) });
    const [result] = await machine.run({ trace: true });
    const last = result?.trace?.exits.at(-1);
    assert.deepEqual(
      [last?.reason, last?.address, last?.direction, last?.size, last?.value],
      ['MMIO', 0x20_0000, 'out', 4, 0x1122_3344],
    );
  });

  test('no more exits are kept than were asked for', async () => {
    // mov $100, %ecx; 1: out %al, $0xe9; dec %ecx; jnz 1b; hlt
    const code = Uint8Array.of(0xb9, 100, 0, 0, 0, 0xe6, 0xe9, 0xff, 0xc9, 0x75, 0xfa, 0xf4);
    using machine = createMachine({ mode: 'long', image: flatImage(code) });
    const [result] = await machine.run({ trace: 10 });
    assert.deepEqual([result?.trace?.dropped, result?.trace?.exits.length], [91, 10]);
    assert.equal(result?.trace?.exits.at(-1)?.reason, 'HLT');
  });
});
