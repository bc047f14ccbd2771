/**
 * A model of what KVM does with vmcall, in the monitor: for hosts whose KVM does not do it, and for calls that no KVM
 * has. What the guest sees is the same as with the real thing: one instruction, the answer in RAX, no exit counted. In
 * truth each is a port exit; all that is shown of it says "simulated".
 */
import { exitReasons } from '#kvm/abi/exits.ts';
import type { RunPage } from '#kvm/runpage.ts';
import type { Guest } from '../guest.ts';
import { modes } from '../modes/table.ts';
import { failed, kernelCalls } from './calls.ts';
import { VmcallLog, type VmcallReport } from './log.ts';
import { modelPort } from './sites.ts';

const byNumber: ReadonlyMap<bigint, (typeof kernelCalls)[number]> = new Map(
  kernelCalls.map((call) => [BigInt(call.nr), call]),
);

/** Code in the kernel's ring: the current privilege level is that of the stack (SDM volume 3A, 5.5). */
const isKernel = ({ vcpu }: Guest): boolean => vcpu.special().segment('ss').dpl === 0;

export class VmcallModel {
  /** RIP at a call, and behind it: KVMs differ in when they move it. */
  readonly #places: ReadonlySet<bigint>;
  readonly #log = new VmcallLog(true);

  constructor(sites: readonly number[]) {
    this.#places = new Set(sites.flatMap((site) => [BigInt(site), BigInt(site + 2)]));
  }

  /** Whether this exit is a vmcall in disguise. */
  catches(page: RunPage): boolean {
    return (
      page.exitReason === exitReasons.IO.number &&
      page.port === modelPort &&
      !page.isOut &&
      this.#places.has(page.registers().rip)
    );
  }

  /** Answers it as the kernel would. The instruction is over then. */
  serve(guest: Guest): void {
    const { vcpu } = guest;
    const isWide = modes[guest.mode].bits === 64;
    const word = (register: bigint): bigint => (isWide ? register : BigInt.asUintN(32, register));
    const { rax, rbx, rcx, rdx, rsi } = vcpu.page.registers();
    const nr = word(rax);
    const call = byNumber.get(nr);
    const words = [rbx, rcx, rdx, rsi].map(word);
    const afterExit = guest.counters.total;
    const result = isKernel(guest) ? (call?.run(guest, words) ?? failed('ENOSYS')) : failed('EPERM');
    const leaves = call?.leaves === true && result >= 0n;
    this.#log.record({ nr, name: call?.name, words, result, afterExit }, leaves);
    vcpu.complete();
    vcpu.setRegisters({ ...vcpu.registers(), rax: BigInt.asUintN(isWide ? 64 : 32, result) });
  }

  report(): VmcallReport | undefined {
    return this.#log.report();
  }
}
