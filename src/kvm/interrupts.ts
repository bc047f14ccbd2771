/**
 * Interrupt controllers and timer inside the kernel (api.rst: KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2): two 8259,
 * an IO-APIC, a local APIC for each vCPU. With them HLT does not come back from KVM_RUN: the kernel waits for the
 * next interrupt itself.
 *
 * All of it is done on the machine's descriptor, from whatever thread.
 */
import { IOEVENTFD_DATAMATCH, PIT_SPEAKER_DUMMY } from './abi/flags.ts';
import { kvmIoeventfd, kvmIrqfd, kvmIrqLevel, kvmPitConfig } from './abi/structs.ts';
import { kvmCall } from './vcpu.ts';

/** Before the first vCPU is made. */
export function createIrqchip(vm: number): void {
  kvmCall(vm, 'CREATE_IRQCHIP');
  const pit = new DataView(new ArrayBuffer(kvmPitConfig.bytes));
  // a guest measures its clock by the speaker's channel: thousands of reads that need not come to us
  pit.setUint32(kvmPitConfig.fields.flags, PIT_SPEAKER_DUMMY, true);
  kvmCall(vm, 'CREATE_PIT2', pit);
}

/** Sets an input of the controllers: interrupt n of the 8259 (below 16) and pin n of the IO-APIC. */
export function setIrqLine(vm: number, irq: number, level: boolean): void {
  const view = new DataView(new ArrayBuffer(kvmIrqLevel.bytes));
  view.setUint32(kvmIrqLevel.fields.irq, irq, true);
  view.setUint32(kvmIrqLevel.fields.level, Number(level), true);
  kvmCall(vm, 'IRQ_LINE', view);
}

/** From now on each write to the eventfd is one edge at this input; the kernel holds on to the eventfd. */
export function connectIrqfd(vm: number, eventfd: number, irq: number): void {
  const view = new DataView(new ArrayBuffer(kvmIrqfd.bytes));
  view.setUint32(kvmIrqfd.fields.fd, eventfd, true);
  view.setUint32(kvmIrqfd.fields.gsi, irq, true);
  kvmCall(vm, 'IRQFD', view);
}

/** A guest's write of `value` (4 bytes) to this address counts in the eventfd, and is no exit any more. */
export function connectIoeventfd(
  vm: number,
  { eventfd, address, value }: { eventfd: number; address: number; value: number },
): void {
  const view = new DataView(new ArrayBuffer(kvmIoeventfd.bytes));
  const { fields } = kvmIoeventfd;
  view.setBigUint64(fields.datamatch, BigInt(value), true);
  view.setBigUint64(fields.addr, BigInt(address), true);
  view.setUint32(fields.len, 4, true);
  view.setInt32(fields.fd, eventfd, true);
  view.setUint32(fields.flags, IOEVENTFD_DATAMATCH, true);
  kvmCall(vm, 'IOEVENTFD', view);
}
