/** Output in one buffer that grows with it: many small pieces cost no more than one large one. */
import { CarrelError } from '#base/errors.ts';

export interface Collector {
  /** Copies the bytes. `machine_lost` beyond the limit: an agent of ours would have stopped before. */
  add(bytes: Uint8Array): void;
  readonly length: number;
  take(): Buffer;
}

export function createCollector(maxBytes: number): Collector {
  let buffer = Buffer.alloc(0);
  let length = 0;
  return {
    add(bytes) {
      if (length + bytes.length > maxBytes)
        throw new CarrelError(
          'machine_lost',
          `the machine's agent sent more than the ${maxBytes} bytes asked for`,
        );
      if (length + bytes.length > buffer.length) {
        const room = Math.min(maxBytes, Math.max(4096, 2 * (length + bytes.length)));
        const larger = Buffer.alloc(room);
        buffer.copy(larger, 0, 0, length);
        buffer = larger;
      }
      buffer.set(bytes, length);
      length += bytes.length;
    },
    get length() {
      return length;
    },
    take: () => buffer.subarray(0, length),
  };
}
