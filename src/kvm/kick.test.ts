import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { within } from '#base/deadline.ts';
import { fuzzRuns } from '#base/fuzz.ts';
import { exitReasons } from './abi/exits.ts';
import { Kick } from './kick.ts';
import { openKvm } from './kvm.ts';
import { GuestMemory } from './memory.ts';
import { runVcpu } from './runloop.ts';
import { withoutKvm } from './testing.ts';
import { Vcpu, type VcpuHandle } from './vcpu.ts';
import type { Vm } from './vm.ts';

const rounds = fuzzRuns(2000);

interface Spinner {
  readonly handle: VcpuHandle;
  /** One for each time it is stopped; a single one for ticks. */
  readonly kicks: readonly SharedArrayBuffer[];
  /** How many it has noticed. */
  readonly round: SharedArrayBuffer;
  readonly how: 'stop' | 'tick';
}

/** On the vCPU's thread: runs the guest again after each kick, and says how often it was kicked. */
function spin({ handle, kicks, round, how }: Spinner): void {
  const vcpu = new Vcpu(handle);
  const word = new Int32Array(round);
  const notice = (count: number): void => {
    Atomics.store(word, 0, count);
    Atomics.notify(word, 0);
  };
  if (how === 'tick') countTicks(vcpu, new Kick(kicks[0]), notice);
  else
    for (const [index, buffer] of kicks.entries()) {
      const left = runVcpu(vcpu, new Kick(buffer), ({ exitReason }) => exitReason === exitReasons.IO.number);
      if (left !== 'kicked') throw new Error(`exit ${vcpu.page.exitReason} in round ${index}`);
      notice(index + 1);
    }
}

/** As a scheduler does: the guest goes on after each tick. */
function countTicks(vcpu: Vcpu, kick: Kick, notice: (count: number) => void): void {
  kick.enter();
  let seen = 0;
  while (seen < rounds) {
    const how = vcpu.run();
    if (how === 'exit' && vcpu.page.exitReason === exitReasons.IO.number) continue;
    if (how !== 'interrupted') throw new Error(`exit ${vcpu.page.exitReason}`);
    vcpu.page.immediateExit = false;
    if (kick.ticks === seen) continue;
    seen = kick.ticks;
    notice(seen);
  }
  kick.leave();
}

/** A little work, so that kicks hit the thread at all points of its way. */
function dawdle(steps: number): number {
  let sum = 0;
  for (let step = 0; step < steps; step += 1) sum += Math.sqrt(step);
  return sum;
}

/** Guests in real mode: one jumps to itself, one leaves for its monitor again and again. */
const guests = {
  spins: [0xeb, 0xfe], // jmp .
  leaves: [0xe6, 0x10, 0xeb, 0xfc], // out %al, $0x10; jmp .-2
} as const;

function guestThat(does: keyof typeof guests, vm: Vm): Vcpu {
  const memory = GuestMemory.allocate(1 << 16);
  memory.bytes.set(guests[does], 0x1000);
  vm.addMemory(memory);
  const vcpu = vm.createVcpu();
  const special = vcpu.special();
  special.setSegment('cs', { ...special.segment('cs'), base: 0n, selector: 0 });
  vcpu.setSpecial(special);
  vcpu.setRegisters({ ...vcpu.registers(), rip: 0x1000n, rflags: 2n });
  return vcpu;
}

/** Kicks it so many times, the next time when it has noticed the last one. */
async function kickAll(vcpu: Vcpu, how: Spinner['how']): Promise<void> {
  const kicks = Array.from({ length: how === 'stop' ? rounds : 1 }, () => new Kick());
  const round = new SharedArrayBuffer(4);
  const word = new Int32Array(round);
  const spinner: Spinner = {
    handle: vcpu.handle,
    kicks: kicks.map(({ buffer }) => buffer),
    round,
    how,
  };
  const worker = new Worker(new URL(import.meta.url), { workerData: spinner });
  const done = once(worker, 'exit');
  for (let index = 0; index < rounds; index += 1) {
    dawdle((index * 7919) % 3000);
    (kicks[index] ?? kicks[0])?.[how](vcpu.page);
    while (Atomics.load(word, 0) <= index)
      if (Atomics.wait(word, 0, index, 60_000) === 'timed-out') assert.fail(`${how} ${index} was lost`);
  }
  assert.equal(Atomics.load(word, 0), rounds);
  await within(60_000, 'the thread to end', done);
}

if (!isMainThread) {
  const spinner: Spinner = workerData;
  spin(spinner);
} else {
  for (const does of ['spins', 'leaves'] as const)
    for (const how of ['stop', 'tick'] as const)
      test(
        `of ${rounds} kicks of a guest that ${does} for ever none is lost, with one signal each (${how})`,
        { skip: withoutKvm },
        async () => {
          using kvm = openKvm();
          using vm = kvm.createVm();
          await kickAll(guestThat(does, vm), how);
        },
      );
}
