/** The thread of a machine's devices: waits for bells, mailboxes, frames and typing, until it is told to stop. */
import { answer, ring } from '#host/eventfd.ts';
import { pollOnce, type Source } from '#host/poll.ts';
import { GuestMemory } from '#kvm/memory.ts';
import type { MmioSize } from '../../devices/device.ts';
import { RamPieces } from '../../devices/pieces.ts';
import { describeFault } from '../fault.ts';
import { VirtioMmio } from '../mmio.ts';
import { registers } from '../registers.ts';
import { Mailbox } from './mailbox.ts';
import type { DevicesOrder, PlacedDevice, Remark } from './order.ts';
import { openStation } from './station.ts';
import { layOut } from './words.ts';

/** Remarks of one device: a guest can make the same mistake for ever. */
const mostRemarks = 100;

const isSize = (size: number): size is MmioSize => [1, 2, 4, 8].includes(size);

/** Returns when it is told to stop. Blocks its thread for all that time. */
export function runDevices(order: DevicesOrder, say: (remark: Remark) => void): void {
  const { devices, vcpus, wake } = order;
  const layout = layOut(order.words, devices.length);
  const ram = new RamPieces(order.ram.map(({ at, handle }) => ({ at, memory: new GuestMemory(handle) })));
  const stopped = (): boolean => Atomics.load(layout.stop, 0) !== 0;
  const mailboxes = Array.from({ length: vcpus }, (_, vcpu) => new Mailbox(layout.mailbox(vcpu)));
  // a vCPU that waits for a register waits for one request, not for all that a guest has put into a queue
  const interrupted = (): boolean => stopped() || mailboxes.some(({ asked }) => asked);

  const open = (
    { spec, name, doorbells, irq }: PlacedDevice,
    index: number,
  ): { mmio: VirtioMmio; sources: Source[]; finish: (() => void) | undefined } => {
    let remarks = 0;
    const remark = (text: string): void => {
      remarks += 1;
      if (remarks <= mostRemarks) say({ device: name, text });
    };
    const { device, sources, finish } = openStation(spec, remark);
    const mmio = new VirtioMmio({
      device,
      name,
      ram,
      irq: {
        set(level) {
          if (level) ring(irq);
        },
      },
      interrupts: layout.interrupts(index),
      interrupted,
      onFault: (fault) => remark(describeFault(name, fault)),
    });
    const bells = doorbells.map((fd, queue): Source => ({
      fd,
      direction: 'in',
      wanted: () => true,
      serve() {
        answer(fd);
        mmio.write(registers.QueueNotify, 4, BigInt(queue));
      },
    }));
    return { mmio, sources: [...bells, ...sources], finish };
  };

  const opened = devices.map(open);
  const serveMailboxes = (): void => {
    answer(wake);
    for (const mailbox of mailboxes)
      mailbox.serve(({ device, offset, size, value }) => {
        const mmio = opened[device]?.mmio;
        if (!mmio || !isSize(size)) return 0n;
        if (value === undefined) return mmio.read(offset, size);
        mmio.write(offset, size, value);
        return 0n;
      });
  };
  const sources: Source[] = [
    { fd: wake, direction: 'in', wanted: () => true, serve: serveMailboxes },
    ...opened.flatMap((each) => each.sources),
  ];
  let unfinished = false;
  while (!stopped()) {
    pollOnce(sources, unfinished ? 0 : -1);
    unfinished = false;
    for (const { mmio } of opened) if (mmio.poll()) unfinished = true;
  }
  for (const { finish } of opened) finish?.();
}
