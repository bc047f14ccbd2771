/**
 * What a machine's terminal is to its guest: the first serial port, or a virtio console. The serial port is there in
 * either case, and what a guest says by it comes out at the same place: a kernel's first words, before it has drivers.
 */
import { errnoName, syscallError, trySyscall } from '#host/syscalls.ts';
import { type Fd, pipe } from '#host/fds.ts';
import type { DeviceSpec } from '../virtio/thread/order.ts';
import type { Board } from './board.ts';

export type ConsoleKind = 'serial' | 'virtio';

/** As seed systems have it: a console, no keyboard, reset by triple fault, no PCI. */
export const defaultCommandLine = (console: ConsoleKind): string =>
  `console=${console === 'virtio' ? 'hvc0' : 'ttyS0'} i8042.nokbd reboot=t panic=1 pci=off`;

/** What is typed, on its way to the guest. */
export interface Keyboard {
  /** Its device, where it takes one. */
  readonly devices: readonly DeviceSpec[];
  /** Returns how many bytes there was room for. */
  type(bytes: Uint8Array): number;
  close(): void;
}

/** On the serial port. */
export const serialKeyboard = (board: Board): Keyboard => ({
  devices: [],
  type: (bytes) => board.receive(bytes),
  close: () => undefined,
});

/** On a virtio console, which prints to `output`: a pipe, not blocking, the caller's. */
export function virtioKeyboard(output: number): Keyboard {
  const [read, write]: [Fd, Fd] = pipe({ nonBlocking: true });
  return {
    devices: [{ kind: 'console', output, input: read.fd }],
    type(bytes) {
      if (!write.open || bytes.length === 0) return bytes.length; // the machine has ended: nobody reads it
      const result = trySyscall('write', write.fd, bytes, bytes.length);
      if (result >= 0) return result;
      if (['EAGAIN', 'EINTR'].includes(errnoName(result))) return 0;
      throw syscallError('write', result, 'the virtio console');
    },
    close() {
      read.close();
      write.close();
    },
  };
}
