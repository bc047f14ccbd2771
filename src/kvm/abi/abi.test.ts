import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { launchOk } from '#host/launch.ts';
import { capabilities } from './capabilities.ts';
import { EXIT_IO_OUT, exitReason, exitReasons, internalErrors } from './exits.ts';
import {
  API_VERSION,
  GUESTDBG_ENABLE,
  GUESTDBG_SINGLESTEP,
  GUESTDBG_USE_HW_BP,
  IOEVENTFD_DATAMATCH,
  MEM_LOG_DIRTY_PAGES,
  PIT_SPEAKER_DUMMY,
  SYNC_X86_REGS,
  X86_QUIRK_FIX_HYPERCALL_INSN,
} from './flags.ts';
import { hypercallErrors, hypercalls } from './hypercalls.ts';
import { ioctls } from './ioctls.ts';
import * as structs from './structs.ts';

/** Expression in C -> our number. */
const numbers = new Map<string, number>();
for (const [name, number] of Object.entries(ioctls)) numbers.set(`KVM_${name}`, number);
for (const [name, { number }] of Object.entries(exitReasons)) numbers.set(`KVM_EXIT_${name}`, number);
for (const [name, { number }] of Object.entries(capabilities)) numbers.set(`KVM_CAP_${name}`, number);
for (const [name, offset] of Object.entries(structs.kvmRun))
  numbers.set(`offsetof(struct kvm_run, ${name})`, offset);

for (const [name, number] of Object.entries(hypercalls)) numbers.set(`KVM_HC_${name}`, number);
for (const [name, number] of Object.entries(hypercallErrors)) numbers.set(`KVM_${name}`, number);

const layouts = {
  kvm_enable_cap: structs.kvmEnableCap,
  kvm_userspace_memory_region: structs.kvmMemoryRegion,
  kvm_regs: structs.kvmRegs,
  kvm_segment: structs.kvmSegment,
  kvm_sregs: structs.kvmSregs,
  kvm_vcpu_events: structs.kvmVcpuEvents,
  kvm_guest_debug: structs.kvmGuestDebug,
  kvm_cpuid2: structs.kvmCpuid2,
  kvm_cpuid_entry2: structs.kvmCpuidEntry,
  kvm_irq_level: structs.kvmIrqLevel,
  kvm_irqfd: structs.kvmIrqfd,
  kvm_ioeventfd: structs.kvmIoeventfd,
  kvm_pit_config: structs.kvmPitConfig,
  kvm_msrs: structs.kvmMsrs,
  kvm_msr_entry: structs.kvmMsrEntry,
  kvm_dirty_log: structs.kvmDirtyLog,
};
for (const [name, { bytes, fields }] of Object.entries(layouts)) {
  numbers.set(`sizeof(struct ${name})`, bytes);
  for (const [field, offset] of Object.entries(fields))
    numbers.set(`offsetof(struct ${name}, ${field})`, offset);
}
numbers.set('KVM_EXIT_IO_OUT', EXIT_IO_OUT);
for (const [name, { number }] of Object.entries(internalErrors))
  numbers.set(`KVM_INTERNAL_ERROR_${name}`, number);
numbers.set('KVM_API_VERSION', API_VERSION);
numbers.set('KVM_X86_QUIRK_FIX_HYPERCALL_INSN', X86_QUIRK_FIX_HYPERCALL_INSN);
numbers.set('KVM_PIT_SPEAKER_DUMMY', PIT_SPEAKER_DUMMY);
numbers.set('KVM_IOEVENTFD_FLAG_DATAMATCH', IOEVENTFD_DATAMATCH);
numbers.set('KVM_SYNC_X86_REGS', SYNC_X86_REGS);
numbers.set('KVM_GUESTDBG_ENABLE', GUESTDBG_ENABLE);
numbers.set('KVM_GUESTDBG_SINGLESTEP', GUESTDBG_SINGLESTEP);
numbers.set('KVM_GUESTDBG_USE_HW_BP', GUESTDBG_USE_HW_BP);
numbers.set('KVM_MEM_LOG_DIRTY_PAGES', MEM_LOG_DIRTY_PAGES);

test(
  'every number of the ABI is the one that the C compiler finds in linux/kvm.h',
  { skip: existsSync('/usr/include/linux/kvm.h') ? false : 'linux/kvm.h is not installed' },
  async (context) => {
    const directory = await mkdtemp(join(tmpdir(), 'carrel-abi-'));
    context.after(() => rm(directory, { recursive: true }));
    const lines = [...numbers.keys()].map((name) => `  printf("%lu\\n", (unsigned long)(${name}));`);
    const source = join(directory, 'abi.c');
    await writeFile(
      source,
      `#include <stddef.h>\n#include <stdio.h>\n#include <errno.h>\n#include <linux/kvm.h>\n#include <linux/kvm_para.h>\nint main(void) {\n${lines.join('\n')}\n}\n`,
    );
    await launchOk(['gcc', '-w', '-o', join(directory, 'abi'), source]);
    const { stdout } = await launchOk([join(directory, 'abi')]);
    const found = stdout.toString('utf8').trim().split('\n').map(Number);
    assert.deepEqual(
      Object.fromEntries([...numbers.keys()].map((name, index) => [name, found[index]])),
      Object.fromEntries(numbers),
    );
  },
);

test('an exit that nobody knows keeps its number', () => {
  assert.equal(exitReason(8).name, 'SHUTDOWN');
  assert.equal(exitReason(4711).name, 'reason 4711');
});
