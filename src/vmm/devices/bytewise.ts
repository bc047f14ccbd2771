/** A device with eight-bit registers: a wider access reaches its neighbours as well, as on an ISA bus. */
import type { PortDevice } from './device.ts';

export interface ByteDevice {
  readonly name: string;
  read(offset: number): number;
  write(offset: number, value: number): void;
}

export function bytewise(device: ByteDevice): PortDevice {
  return {
    name: device.name,
    read(offset, size) {
      let value = 0;
      for (let index = 0; index < size; index += 1)
        value += (device.read(offset + index) & 0xff) * 2 ** (index * 8);
      return value;
    },
    write(offset, size, value) {
      for (let index = 0; index < size; index += 1)
        device.write(offset + index, (value >>> (index * 8)) & 0xff);
    },
  };
}
