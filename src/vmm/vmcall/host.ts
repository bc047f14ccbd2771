/** What the host's own KVM does with vmcall: most it answers itself, and we never hear of it. */
import { X86_QUIRK_FIX_HYPERCALL_INSN } from '#kvm/abi/flags.ts';
import { hypercalls } from '#kvm/abi/hypercalls.ts';
import type { RunPage } from '#kvm/runpage.ts';
import type { Vm } from '#kvm/vm.ts';
import { failed, kernelCalls, mapGpaRange } from './calls.ts';
import type { VmcallLog } from './log.ts';

/**
 * Asks for the one call that KVM hands on, where it can. And on Intel processors vmcall stays what it is: a KVM that
 * emulates would "correct" it to the same bytes and execute it again, for ever, and raises #UD if it may not
 * (em_hypercall in arch/x86/kvm/emulate.c). On AMD the correction is what makes vmcall work.
 */
export function prepareVmcall(vm: Vm): void {
  vm.enable('EXIT_HYPERCALL', 1 << hypercalls.MAP_GPA_RANGE);
  if (vm.vendor === 'GenuineIntel') vm.enable('DISABLE_QUIRKS2', X86_QUIRK_FIX_HYPERCALL_INSN);
}

/** An exit of kind HYPERCALL. Pages of our guests are neither private nor shared: there is nothing to do for it. */
export function serveHypercall(page: RunPage, log: VmcallLog, afterExit: number): void {
  const { nr, words } = page.hypercall;
  const call = kernelCalls.find((each) => BigInt(each.nr) === nr && each.leaves);
  const result = call ? mapGpaRange(words) : failed('ENOSYS');
  page.hypercallResult = result;
  log.record({ nr, name: call?.name, words, result, afterExit }, true);
}
