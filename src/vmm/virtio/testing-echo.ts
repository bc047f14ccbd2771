/** For tests of what all virtio devices have in common: a device that is as small as can be. */
import type { VirtioDevice } from './device.ts';
import { bytesIn, copyIn } from './pieces.ts';
import { TestDriver } from './testing.ts';

/** A device that answers each chain with its number of readable bytes, as one byte. */
export function echo(more: Partial<VirtioDevice> = {}): VirtioDevice & { resets: number; served: number } {
  return {
    name: 'echo',
    deviceId: 42,
    features: 0b101n,
    queueSizes: [16, 8],
    config: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9),
    resets: 0,
    served: 0,
    attach: () => undefined,
    notify(queue, queues) {
      queues.drain(queue, (chain) => {
        this.served += 1;
        return copyIn(chain.writable, Uint8Array.of(bytesIn(chain.readable)));
      });
    },
    reset() {
      this.resets += 1;
    },
    ...more,
  };
}

/** A driver with one queue, ready to work. */
export function working({ without = 0n, device = echo() }: { without?: bigint; device?: VirtioDevice } = {}) {
  const driver = new TestDriver({ device });
  driver.negotiate({ without });
  const queue = driver.makeQueue(0);
  driver.ready();
  return { driver, queue, buffer: driver.allocate(64), device };
}

/** Features that every device of ours has. */
export const EVENT_IDX = 1n << 29n;
export const INDIRECT = 1n << 28n;
