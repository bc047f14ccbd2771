import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { within } from '#base/deadline.ts';
import { Kick } from './kick.ts';
import { openKvm } from './kvm.ts';
import { GuestMemory } from './memory.ts';
import { runVcpu } from './runloop.ts';
import { withoutKvm } from './testing.ts';
import { Vcpu, type VcpuHandle } from './vcpu.ts';

const rounds = 2000;

interface Spinner {
  readonly handle: VcpuHandle;
  readonly kicks: readonly SharedArrayBuffer[];
  readonly round: SharedArrayBuffer;
}

/** On the vCPU's thread: runs the guest again after each kick, and says how often it was kicked. */
function spin({ handle, kicks, round }: Spinner): void {
  const vcpu = new Vcpu(handle);
  const word = new Int32Array(round);
  for (const [index, buffer] of kicks.entries()) {
    const how = runVcpu(vcpu, new Kick(buffer), () => false);
    if (how !== 'kicked') throw new Error(`exit ${vcpu.page.exitReason} in round ${index}`);
    Atomics.store(word, 0, index + 1);
    Atomics.notify(word, 0);
  }
}

/** A little work, so that kicks hit the thread at all points of its way. */
function dawdle(steps: number): number {
  let sum = 0;
  for (let step = 0; step < steps; step += 1) sum += Math.sqrt(step);
  return sum;
}

if (!isMainThread) {
  const spinner: Spinner = workerData;
  spin(spinner);
} else {
  test(
    'of 2,000 kicks of a guest that spins for ever none is lost, with one signal each',
    { skip: withoutKvm },
    async () => {
      using kvm = openKvm();
      using vm = kvm.createVm();
      const memory = GuestMemory.allocate(1 << 16);
      memory.bytes.set([0xeb, 0xfe], 0x1000); // jmp .
      vm.addMemory(memory);
      const vcpu = vm.createVcpu();
      const special = vcpu.special();
      special.setSegment('cs', { ...special.segment('cs'), base: 0n, selector: 0 });
      vcpu.setSpecial(special);
      vcpu.setRegisters({ ...vcpu.registers(), rip: 0x1000n, rflags: 2n });

      const kicks = Array.from({ length: rounds }, () => new Kick());
      const round = new SharedArrayBuffer(4);
      const word = new Int32Array(round);
      const spinner: Spinner = { handle: vcpu.handle, kicks: kicks.map(({ buffer }) => buffer), round };
      const worker = new Worker(new URL(import.meta.url), { workerData: spinner });
      const done = once(worker, 'exit');
      for (const [index, kick] of kicks.entries()) {
        dawdle((index * 7919) % 3000);
        kick.stop(vcpu.page);
        while (Atomics.load(word, 0) <= index)
          if (Atomics.wait(word, 0, index, 10_000) === 'timed-out') assert.fail(`kick ${index} was lost`);
      }
      assert.equal(Atomics.load(word, 0), rounds);
      await within(10_000, 'the thread to end', done);
    },
  );
}
