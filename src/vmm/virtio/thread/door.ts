/**
 * A device that lives in the thread of the devices, as a vCPU's thread sees it. What a guest does often does not wait
 * for that thread: a notification rings a bell, and InterruptStatus and InterruptACK are one shared word.
 */
import { ring } from '#host/eventfd.ts';
import type { MmioDevice, MmioSize } from '../../devices/device.ts';
import { rangeBytes, registers } from '../registers.ts';
import { Mailbox } from './mailbox.ts';
import { layOut } from './words.ts';

/** Plain data: goes to the thread of a vCPU as a message. */
export interface DoorHandle {
  readonly words: SharedArrayBuffer;
  readonly wake: number;
  readonly devices: readonly { readonly name: string; readonly doorbells: readonly number[] }[];
}

/** The devices of a machine, in order, for the thread of vCPU `vcpu`: nobody else may use these. */
export function openDoors(
  { words, wake, devices }: DoorHandle,
  vcpu: number,
): readonly (MmioDevice & { readonly bytes: number })[] {
  const layout = layOut(words, devices.length);
  const mailbox = new Mailbox(layout.mailbox(vcpu));
  const ask = (device: number, offset: number, size: MmioSize, value?: bigint): bigint =>
    mailbox.ask({ device, offset, size, value }, () => ring(wake));
  return devices.map(({ name, doorbells }, device) => {
    const interrupts = layout.interrupts(device);
    return {
      name,
      bytes: rangeBytes,
      read: (offset, size) =>
        offset === registers.InterruptStatus && size === 4
          ? BigInt(Atomics.load(interrupts, 0))
          : ask(device, offset, size),
      write(offset, size, value) {
        const bell = size === 4 && offset === registers.QueueNotify ? doorbells[Number(value)] : undefined;
        if (bell !== undefined) ring(bell);
        else if (size === 4 && offset === registers.InterruptACK) Atomics.and(interrupts, 0, ~Number(value));
        else ask(device, offset, size, value);
      },
    };
  });
}
