import assert from 'node:assert/strict';
import { join } from 'node:path';
import { suite, test, type TestContext } from 'node:test';
import { until } from '#base/deadline.ts';
import { holdings, withoutKvm } from '#kvm/testing.ts';
import { compileGuest, kit } from '../image/compile.ts';
import type { GuestImage } from '../image/image.ts';
import { createMachine, type Machine } from '../machine.ts';
import { modes } from '../modes/table.ts';
import { code, compile } from '../testing.ts';
import { schedule, type ScheduleOptions } from './schedule.ts';

/** Counts for ever at 0x400, as examples/count.c does. */
const counter = code(0xff, 0x04, 0x25, 0, 4, 0, 0, 0xeb, 0xf7); // incl 0x400; jmp .-7
const spin = code(0xeb, 0xfe);

function machinesOf(context: TestContext, ...images: readonly GuestImage[]): Machine[] {
  const machines = images.map((image) => createMachine({ mode: 'long', image }));
  context.after(() => {
    for (const machine of machines) machine.close();
  });
  return machines;
}

const counted = ({ memory }: Machine): number => memory.view.getUint32(0x400, true);

/** Runs counters, and says which part of all that was counted each has. */
async function partsOf(
  context: TestContext,
  count: number,
  options: ScheduleOptions,
): Promise<{ parts: number[]; shares: number[]; slices: number[] }> {
  const machines = machinesOf(context, ...Array.from({ length: count }, () => counter));
  const { machines: results } = await schedule(machines, options);
  for (const { end } of results) assert.equal(end.kind, 'time limit');
  const sum = machines.reduce((total, machine) => total + counted(machine), 0);
  return {
    parts: machines.map((machine) => counted(machine) / sum),
    shares: results.map(({ share }) => share),
    slices: results.map(({ slices }) => slices),
  };
}

/** Far from what a wrong policy gives, near enough for a host with other work to do. */
function assertNear(actual: readonly number[], wanted: readonly number[], within: number): void {
  for (const [index, part] of wanted.entries())
    assert.ok(Math.abs((actual[index] ?? -1) - part) < within, `${actual.join(' ')} for ${wanted.join(' ')}`);
}

const refused = (machines: readonly Machine[], options: ScheduleOptions, why: RegExp): Promise<void> =>
  assert.rejects(schedule(machines, options), why);

suite('several machines on one core', { skip: withoutKvm }, () => {
  test('io: they alternate at every exit, exactly, whoever prints', async (context) => {
    const image = await compileGuest(join(kit, 'examples', 'chat.c'), modes.long);
    const lines: string[] = [];
    const { machines, timeline } = await schedule(machinesOf(context, image, image, image), {
      policy: 'io',
      onLine: (machine, line) => lines.push(`${machine} ${line.trim()}`),
    });
    const words = ['one', 'two', 'three', 'four', 'five'];
    assert.deepEqual(
      lines,
      words.flatMap((word) => [0, 1, 2].map((machine) => `${machine} ${word}`)),
    );
    assert.deepEqual(
      timeline.slices.map(({ machine, exits, cause }) => [machine, exits, cause]),
      [0, 1, 2, 3, 4, 5].flatMap((round) =>
        [0, 1, 2].map((machine) => [machine, 1, round === 5 ? 'end' : 'io']),
      ),
    );
    for (const { end, output, exits, slices, registers } of machines)
      assert.deepEqual(
        [end.kind, output, exits.byReason, slices, registers.rax],
        ['halted', 'one\ntwo\nthree\nfour\nfive\n', { IO: 5, HLT: 1 }, 6, 42n],
      );
  });

  test('io: who never leaves keeps the core until the limit, and the other one never runs', async (context) => {
    const image = await compileGuest(join(kit, 'examples', 'chat.c'), modes.long);
    const { machines, timeline } = await schedule(machinesOf(context, spin, image), {
      policy: 'io',
      limitMs: 200,
    });
    assert.deepEqual(
      machines.map(({ end, slices, output }) => [end.kind, slices, output]),
      [
        ['time limit', 1, ''],
        ['time limit', 0, ''],
      ],
    );
    assert.deepEqual(
      timeline.slices.map(({ machine, cause }) => [machine, cause]),
      [[0, 'stop']],
    );
  });

  test('timer: a spinning machine loses the core, and the one that wants to say something does', async (context) => {
    const image = await compileGuest(join(kit, 'examples', 'chat.c'), modes.long);
    const { machines } = await schedule(machinesOf(context, spin, image), {
      policy: 'timer',
      sliceMs: 5,
      limitMs: 2000,
    });
    assert.deepEqual(
      machines.map(({ end }) => end.kind),
      ['time limit', 'halted'],
    );
    assert.equal(machines[1]?.output, 'one\ntwo\nthree\nfour\nfive\n');
  });

  test('timer: two that count get half each, in turn', async (context) => {
    const machines = machinesOf(context, counter, counter);
    const { timeline, machines: results } = await schedule(machines, {
      policy: 'timer',
      sliceMs: 5,
      limitMs: 1000,
    });
    const turns = timeline.slices.map(({ machine }) => machine);
    assert.deepEqual(
      turns,
      turns.map((_, index) => index % 2),
    );
    assert.ok(turns.length > 10, `${turns.length} slices`);
    for (const { cause } of timeline.slices.slice(0, -1)) assert.equal(cause, 'tick');
    assertNear(
      results.map(({ share }) => share),
      [0.5, 0.5],
      0.2,
    );
    for (const machine of machines) assert.ok(counted(machine) > 0);
  });

  test('weights: 70 to 30 by CPU time, and by what was counted', async (context) => {
    const { parts, shares, slices } = await partsOf(context, 2, {
      policy: 'weights',
      weights: [70, 30],
      sliceMs: 5,
      limitMs: 1500,
    });
    assertNear(shares, [0.7, 0.3], 0.1);
    assertNear(parts, [0.7, 0.3], 0.15);
    assert.ok((slices[0] ?? 0) > (slices[1] ?? 0));
  });

  test('a fault ends its machine, the others go on', async (context) => {
    const healthy = await compile(context, 'int main(void) { print("well\\n"); return 42; }');
    const { machines } = await schedule(machinesOf(context, code(0x0f, 0x0b), healthy), { policy: 'io' });
    const [bad, good] = machines;
    assert.ok(bad?.end.kind === 'fault');
    assert.equal(bad.end.fault.exception?.vector, 6);
    assert.deepEqual([good?.end.kind, good?.output], ['halted', 'well\n']);
  });

  test('it is stopped from outside, and its machines can go on afterwards', async (context) => {
    const machines = machinesOf(context, counter, counter);
    const abort = new AbortController();
    const running = schedule(machines, { policy: 'timer', limitMs: 60_000, signal: abort.signal });
    await until(20_000, 'both to count', () =>
      machines.every((machine) => counted(machine) > 0) ? true : undefined,
    );
    assert.throws(() => machines[0]?.close(), /running/);
    abort.abort();
    for (const { end } of (await running).machines) assert.equal(end.kind, 'stopped');
    const before = machines.map(counted);
    await schedule(machines, { policy: 'timer', sliceMs: 2, limitMs: 1000 });
    for (const [index, machine] of machines.entries()) assert.ok(counted(machine) > (before[index] ?? 0));
  });

  test('what makes no schedule is refused', async (context) => {
    const [one] = machinesOf(context, spin);
    assert.ok(one);
    await refused([], { policy: 'io' }, /1 to 8 machines/);
    await refused([one], { policy: 'weights', weights: [1, 2] }, /one weight above 0 for each of 1/);
    await refused([one], { policy: 'weights', weights: [0] }, /one weight above 0/);
    await refused([one], { policy: 'timer', weights: [1] }, /for the policy weights/);
    await refused([one], { policy: 'timer', sliceMs: 0.1 }, /at least/);
    await refused([one], { policy: 'io', ports: 'no such map' }, /no port map/);
    using two = createMachine({ mode: 'long', image: spin, vcpus: 2 });
    await refused([two], { policy: 'io' }, /one vCPU/);
  });

  test('nothing of KVM and no thread is left', async () => {
    const hlt = code(0xf4);
    const round = async (): Promise<void> => {
      using a = createMachine({ mode: 'long', image: hlt });
      using b = createMachine({ mode: 'long', image: hlt });
      const { machines } = await schedule([a, b], { policy: 'timer', sliceMs: 1 });
      for (const { end } of machines) assert.equal(end.kind, 'halted');
    };
    await round();
    const before = holdings();
    for (let count = 0; count < 10; count += 1) await round();
    assert.deepEqual(holdings(), before);
  });
});
