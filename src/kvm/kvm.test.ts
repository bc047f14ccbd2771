import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isCarrelError } from '#base/errors.ts';
import { exitReasons } from './abi/exits.ts';
import { SYNC_X86_REGS } from './abi/flags.ts';
import { Kick } from './kick.ts';
import { openKvm } from './kvm.ts';
import { GuestMemory } from './memory.ts';
import { runVcpu } from './runloop.ts';
import { holdings, withoutKvm } from './testing.ts';
import type { Vcpu } from './vcpu.ts';
import type { Vm } from './vm.ts';

const entry = 0x1000;

/** A guest in real mode, its code at 0x1000. */
function realMode(vm: Vm, code: readonly number[]): { vcpu: Vcpu; memory: GuestMemory } {
  const memory = GuestMemory.allocate(1 << 20);
  memory.bytes.set(code, entry);
  vm.addMemory(memory);
  const vcpu = vm.createVcpu();
  const special = vcpu.special();
  special.setSegment('cs', { ...special.segment('cs'), base: 0n, selector: 0 });
  vcpu.setSpecial(special);
  vcpu.setRegisters({ ...vcpu.registers(), rip: BigInt(entry), rflags: 2n });
  return { vcpu, memory };
}

test('a host without KVM is told apart from one where it is closed to us', () => {
  assert.throws(
    () => openKvm('/dev/no-such-kvm'),
    (error) => isCarrelError(error, 'host_unsupported') && /no \/dev\/kvm/.test(error.message),
  );
});

test('guest memory begins at a page, is zero, and knows its end', () => {
  const memory = GuestMemory.allocate(8192);
  assert.equal(memory.hostAddress % 4096n, 0n);
  assert.ok(memory.bytes.every((byte) => byte === 0));
  assert.equal(memory.slice(8191n, 1)?.length, 1);
  assert.equal(memory.slice(8191n, 2), undefined);
  assert.equal(memory.slice(-1n, 1), undefined);
  assert.equal(memory.slice(1n << 64n, 1), undefined);
  assert.throws(() => GuestMemory.allocate(100));
});

test('port values go both ways, and registers come along with the exit', { skip: withoutKvm }, () => {
  using kvm = openKvm();
  using vm = kvm.createVm();
  // in al, 0x10; inc al; out 0x20, al; hlt
  const { vcpu } = realMode(vm, [0xe4, 0x10, 0xfe, 0xc0, 0xe6, 0x20, 0xf4]);
  vcpu.page.syncedRegisters = SYNC_X86_REGS;
  const seen: string[] = [];
  const how = runVcpu(vcpu, new Kick(), (page) => {
    if (page.exitReason !== exitReasons.IO.number) return false;
    seen.push(`${page.isOut ? 'out' : 'in'} ${page.port} ${page.ioSize} ${page.ioCount}`);
    if (page.isOut) assert.equal(page.ioValue(0), 42);
    else page.setIoValue(0, 41);
    return true;
  });
  assert.equal(how, 'served');
  assert.equal(vcpu.page.exitReason, exitReasons.HLT.number);
  assert.deepEqual(seen, ['in 16 1 1', 'out 32 1 1']);
  assert.equal(vcpu.page.registers().rax & 0xffn, 42n);
  assert.deepEqual(vcpu.page.registers(), vcpu.registers());
});

test('a stop that was asked for before the first instruction is not lost', { skip: withoutKvm }, () => {
  using kvm = openKvm();
  using vm = kvm.createVm();
  const { vcpu } = realMode(vm, [0xeb, 0xfe]); // jmp .
  const kick = new Kick();
  kick.stop(vcpu.page);
  assert.equal(
    runVcpu(vcpu, kick, () => assert.fail('the guest ran')),
    'kicked',
  );
});

/** More by CARREL_VM_ROUNDS. */
const rounds = Number(process.env['CARREL_VM_ROUNDS'] ?? 1000);

test(`after ${rounds} machines no descriptor, no mapping and no thread is left`, { skip: withoutKvm }, () => {
  using kvm = openKvm();
  const before = holdings();
  for (let round = 0; round < rounds; round += 1) {
    using vm = kvm.createVm();
    const { vcpu } = realMode(vm, [0xf4]);
    assert.equal(vcpu.run(), 'exit');
    assert.equal(vcpu.page.exitReason, exitReasons.HLT.number);
    if (round === 0)
      assert.deepEqual(
        { ...holdings(), threads: 0 },
        { fds: before.fds + 2, mappings: before.mappings + 1, threads: 0 },
      );
  }
  assert.deepEqual(holdings(), before);
});

test('a closed machine makes no vCPU, and its kvm_run reads as zeros', { skip: withoutKvm }, () => {
  using kvm = openKvm();
  const vm = kvm.createVm();
  const { vcpu } = realMode(vm, [0xf4]);
  vcpu.run();
  assert.equal(vcpu.page.exitReason, exitReasons.HLT.number);
  vm.close();
  assert.equal(vcpu.page.exitReason, 0);
  assert.throws(() => vm.createVcpu(), /closed/);
});
