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
import { schedule, type Scheduled, type ScheduleOptions } from './schedule.ts';

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

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);

/**
 * Runs counters until the thread of the ticks and the thread of the machines were at it so many times, one after the
 * other: as many ticks were met at least, however the host shares its time between the two.
 */
async function runRounds(
  machines: readonly Machine[],
  rounds: number,
  options: ScheduleOptions,
): Promise<Scheduled> {
  const abort = new AbortController();
  const running = schedule(machines, { ...options, limitMs: 300_000, signal: abort.signal });
  let last = 0;
  let done = 0;
  try {
    await until(240_000, `${rounds} rounds of ticks and counting`, () => {
      const now = sum(machines.map(counted));
      if (now > last) done += 1;
      last = now;
      return done >= rounds ? true : undefined;
    });
  } finally {
    abort.abort();
  }
  const scheduled = await running;
  for (const { end } of scheduled.machines) assert.equal(end.kind, 'stopped');
  return scheduled;
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[numbers.length >> 1] ?? Number.NaN;
}

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
    const said = new AbortController();
    const { machines } = await schedule(machinesOf(context, spin, image), {
      policy: 'timer',
      sliceMs: 5,
      limitMs: 120_000,
      signal: said.signal,
      onLine: (_, line) => void (line === 'five\n' && said.abort()),
    });
    assert.deepEqual(
      machines.map(({ end, output }) => [end.kind === 'time limit', output]),
      [
        [false, ''],
        [false, 'one\ntwo\nthree\nfour\nfive\n'],
      ],
    );
  });

  test('timer: two that count get the core in turn, and for as long', async (context) => {
    const machines = machinesOf(context, counter, counter);
    const { timeline, machines: results } = await runRounds(machines, 60, { policy: 'timer', sliceMs: 5 });
    const turns = timeline.slices.map(({ machine }) => machine);
    assert.deepEqual(
      turns,
      turns.map((_, index) => index % 2),
    );
    assert.ok(turns.length > 20, `${turns.length} slices`);
    for (const { cause } of timeline.slices.slice(0, -1)) assert.equal(cause, 'tick');
    // of a few slices the host may make minutes: what is usual is in the middle
    const [first = 0, second = 0] = [0, 1].map((index) =>
      median(timeline.slices.filter(({ machine }) => machine === index).map(({ cpuMs }) => cpuMs)),
    );
    assert.ok(first > second / 2 && second > first / 2, `${first} and ${second} ms`);
    for (const [index, { share }] of results.entries()) {
      const had = timeline.slices.filter(({ machine }) => machine === index);
      const all = sum(timeline.slices.map(({ cpuMs }) => cpuMs));
      assert.ok(Math.abs(share - sum(had.map(({ cpuMs }) => cpuMs)) / all) < 1e-6);
    }
    for (const machine of machines) assert.ok(counted(machine) > 0);
  });

  test('weights: 70 to 30 by CPU time, and by what was counted', async (context) => {
    const weights = [70, 30];
    const machines = machinesOf(context, counter, counter);
    const { timeline, machines: results } = await runRounds(machines, 120, {
      policy: 'weights',
      weights,
      sliceMs: 5,
    });
    const had = [0, 0];
    let longest = 0;
    for (const { machine, cpuMs } of timeline.slices) {
      // whoever gets the core has had the least for its weight
      const least = Math.min(...had.map((ms, index) => ms / (weights[index] ?? 1)));
      assert.ok((had[machine] ?? 0) / (weights[machine] ?? 1) <= least + 1e-6);
      had[machine] = (had[machine] ?? 0) + cpuMs;
      longest = Math.max(longest, cpuMs);
    }
    assert.ok(timeline.slices.length > 20 && timeline.dropped === 0, `${timeline.slices.length} slices`);
    // off by one slice at most, and a slice is as long as the host lets it be
    const off = longest / sum(had);
    const shares = results.map(({ share }) => share);
    assertNear(shares, [0.7, 0.3], off + 0.001);
    const all = sum(machines.map(counted));
    assertNear(
      machines.map((machine) => counted(machine) / all),
      shares,
      0.15,
    );
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
    const running = schedule(machines, { policy: 'timer', limitMs: 300_000, signal: abort.signal });
    await until(120_000, 'both to count', () =>
      machines.every((machine) => counted(machine) > 0) ? true : undefined,
    );
    assert.throws(() => machines[0]?.close(), /running/);
    abort.abort();
    for (const { end } of (await running).machines) assert.equal(end.kind, 'stopped');
    const before = machines.map(counted);
    await runRounds(machines, 20, { policy: 'timer', sliceMs: 2 });
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
