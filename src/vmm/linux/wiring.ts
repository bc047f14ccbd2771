/**
 * Virtio devices in the machine: where their registers lie, which interrupt each has, and how a kernel without
 * device tree or ACPI learns of them, which is its command line (virtio_mmio.device= in
 * Documentation/admin-guide/kernel-parameters.txt).
 */
import { CarrelError } from '#base/errors.ts';
import { connectIoeventfd, connectIrqfd } from '#kvm/interrupts.ts';
import { MmioBus } from '../devices/bus.ts';
import { registers, rangeBytes } from '../virtio/registers.ts';
import { type DoorHandle, openDoors } from '../virtio/thread/door.ts';
import type { DeviceSpec, PlacedDevice } from '../virtio/thread/order.ts';
import { irqs, place } from './layout.ts';

/** Each begins a page of its own. */
const spacing = 0x1000;

const addressOf = (device: number): number => place.virtio + device * spacing;

function irqOf(device: number): number {
  const irq = irqs.virtio[device];
  if (irq === undefined)
    throw new CarrelError('invalid_request', `a machine has at most ${irqs.virtio.length} virtio devices`);
  return irq;
}

/** For the end of the command line: the devices, and the first disk as the root unless there is an initramfs. */
export function deviceParameters(
  devices: readonly Pick<DeviceSpec, 'kind'>[],
  { commandLine, hasInitrd }: { commandLine: string; hasInitrd: boolean },
): string {
  const words = devices.map(
    (_, device) => `virtio_mmio.device=${rangeBytes}@0x${addressOf(device).toString(16)}:${irqOf(device)}`,
  );
  const wantsRoot =
    devices.some(({ kind }) => kind === 'block') && !hasInitrd && !/(^| )root=/.test(commandLine);
  return [commandLine, ...words, ...(wantsRoot ? ['root=/dev/vda rw'] : [])].join(' ');
}

/** Bells and interrupts go by eventfds, from kernel to kernel: no exit, and no call of ours. */
export function connectDevices(vm: number, placed: readonly PlacedDevice[]): void {
  for (const [device, { doorbells, irq }] of placed.entries()) {
    connectIrqfd(vm, irq, irqOf(device));
    for (const [queue, eventfd] of doorbells.entries())
      connectIoeventfd(vm, { eventfd, address: addressOf(device) + registers.QueueNotify, value: queue });
  }
}

/** The devices on the bus of one vCPU's thread. */
export function openBus(doors: DoorHandle, vcpu: number): MmioBus {
  const bus = new MmioBus();
  for (const [device, door] of openDoors(doors, vcpu).entries()) bus.add(addressOf(device), door.bytes, door);
  return bus;
}
