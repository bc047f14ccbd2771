/** What a hypercall can reach of the guest that made it. */
import type { Registers } from '#kvm/registers.ts';
import type { Vcpu } from '#kvm/vcpu.ts';
import { AddressSpace } from './addresses.ts';
import type { ExitCounters } from './counters.ts';
import type { DiskBus } from './disk.ts';
import type { Layout } from './layout.ts';
import type { ModeName } from './modes/mode.ts';
import type { GuestOutput } from './output.ts';
import type { Share } from './share.ts';
import type { VmcallLog } from './vmcall/log.ts';
import type { VmcallModel } from './vmcall/model.ts';

export interface Guest {
  readonly vcpu: Vcpu;
  readonly mode: ModeName;
  readonly layout: Layout;
  /** Offset behind the last byte of its image. */
  readonly imageEnd: number;
  readonly output: GuestOutput;
  readonly outputLimit: number;
  readonly counters: ExitCounters;
  readonly share: Share;
  readonly disk: DiskBus | undefined;
  /** Who answers vmcall: a model of ours, or the host's KVM, which hands some on. */
  readonly vmcall: VmcallModel | VmcallLog;
  /** What the last hypercall answered: some maps hand it out by a port of its own. */
  lastResult: number;
}

/** The guest's memory as it sees it now: page tables may have changed since the last exit. */
export function addressSpaceOf(guest: Guest): AddressSpace {
  return new AddressSpace(guest.layout, guest.vcpu.special());
}

/** Registers as of this exit. KVM has put them into kvm_run. */
export function registersOf(guest: Guest): Registers {
  return guest.vcpu.page.registers();
}
