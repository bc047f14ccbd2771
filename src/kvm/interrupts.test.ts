import assert from 'node:assert/strict';
import { readSync } from 'node:fs';
import { test } from 'node:test';
import { ownFd } from '#host/fds.ts';
import { syscall } from '#host/syscalls.ts';
import { exitReasons } from './abi/exits.ts';
import { connectIoeventfd, connectIrqfd, createIrqchip, setIrqLine } from './interrupts.ts';
import { Kick } from './kick.ts';
import { openKvm } from './kvm.ts';
import { GuestMemory } from './memory.ts';
import { runVcpu } from './runloop.ts';
import { withoutKvm } from './testing.ts';

const entry = 0x1000;
const handler = 0x1100;

/** In real mode: sets up the first 8259 with vectors from 0x20 on, lets all of it through, and waits. */
const waitForInterrupt = [
  [0xb0, 0x11, 0xe6, 0x20], // mov al, 0x11; out 0x20, al: initialize
  [0xb0, 0x20, 0xe6, 0x21], // first vector
  [0xb0, 0x04, 0xe6, 0x21], // the second 8259 is at line 2
  [0xb0, 0x01, 0xe6, 0x21], // 8086 mode
  [0xb0, 0x00, 0xe6, 0x21], // nothing is masked
  [0xe6, 0xea], // out 0xea, al: ready; an edge before this would have been lost
  [0xfb, 0xf4, 0xeb, 0xfd], // sti; hlt; jmp to hlt
].flat();

/** mov al, 'k'; out 0xe9, al */
const sayK = [0xb0, 0x6b, 0xe6, 0xe9];
/** mov ax, 0xd000; mov ds, ax; mov dword [0x50], 1 and 2; out 0xe9, al */
const ringTwice = [
  0xb8, 0x00, 0xd0, 0x8e, 0xd8, 0x66, 0xc7, 0x06, 0x50, 0x00, 1, 0, 0, 0, 0x66, 0xc7, 0x06, 0x50, 0x00, 2, 0,
  0, 0, 0xe6, 0xe9,
];

interface Steps {
  readonly prepare?: (vm: number) => void;
  /** When it writes to port 0xea. */
  readonly ready?: (vm: number) => void;
}

/** Runs a real-mode guest until it writes to port 0xe9; the exits by reason until then. */
function run(code: readonly number[], { prepare, ready }: Steps): number[] {
  using kvm = openKvm();
  using vm = kvm.createVm();
  createIrqchip(vm.fd);
  const memory = GuestMemory.allocate(0x1_0000);
  memory.bytes.set(code, entry);
  memory.bytes.set(sayK, handler);
  for (const irq of [3, 4]) memory.view.setUint32((0x20 + irq) * 4, handler, true);
  vm.addMemory(memory);
  const vcpu = vm.createVcpu();
  const special = vcpu.special();
  special.setSegment('cs', { ...special.segment('cs'), base: 0n, selector: 0 });
  vcpu.setSpecial(special);
  vcpu.setRegisters({ ...vcpu.registers(), rip: BigInt(entry), rsp: 0x8000n, rflags: 2n });
  prepare?.(vm.fd);
  const exits: number[] = [];
  runVcpu(vcpu, new Kick(), (page) => {
    exits.push(page.exitReason);
    if (page.exitReason === exitReasons.IO.number && page.port === 0xea) ready?.(vm.fd);
    return exits.length < 10 && !(page.exitReason === exitReasons.IO.number && page.port === 0xe9);
  });
  return exits;
}

function eventfd(): ReturnType<typeof ownFd> {
  return ownFd(syscall('eventfd2', 0, 0));
}

test('a line that rises wakes a guest that waits in HLT', { skip: withoutKvm }, () => {
  assert.deepEqual(run(waitForInterrupt, { ready: (vm) => setIrqLine(vm, 3, true) }), [
    exitReasons.IO.number,
    exitReasons.IO.number,
  ]);
});

test('a write to an irqfd is an interrupt', { skip: withoutKvm }, () => {
  using event = eventfd();
  const exits = run(waitForInterrupt, {
    prepare: (vm) => connectIrqfd(vm, event.fd, 4),
    ready: () => syscall('write', event.fd, new BigUint64Array([1n]), 8),
  });
  assert.deepEqual(exits, [exitReasons.IO.number, exitReasons.IO.number]);
});

test('a doorbell counts in its eventfd and is no exit; another value is one', { skip: withoutKvm }, () => {
  using event = eventfd();
  const exits = run(ringTwice, {
    prepare: (vm) => connectIoeventfd(vm, { eventfd: event.fd, address: 0xd_0050, value: 1 }),
  });
  assert.deepEqual(exits, [exitReasons.MMIO.number, exitReasons.IO.number]);
  const count = new BigUint64Array(1);
  readSync(event.fd, count);
  assert.equal(count[0], 1n);
});
