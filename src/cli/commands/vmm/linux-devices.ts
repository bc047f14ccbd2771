/** The disks and the network card of `carrel vmm linux`, opened. */
import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { openHostTap } from '#fabric/tap.ts';
import { openDisk } from '#vmm/disk.ts';
import type { LinuxSettings } from '#vmm/linux/options.ts';
import type { DeviceSpec } from '#vmm/virtio/thread/order.ts';

/** Bytes of a serial number (virtio 1.2, 5.2.6). */
const diskIdBytes = 20;

/** The same at each start, so that a guest knows its card again: locally administered, out of the TAP's name. */
function macOf(tap: string): string {
  const bytes = createHash('sha256').update(tap).digest().subarray(0, 5);
  return [2, ...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

export interface OpenOptions {
  readonly readOnly: boolean;
  /** Closes what is opened. */
  readonly opened: DisposableStack;
  /** Hears what would make a guest wait in vain. */
  readonly note: (text: string) => void;
}

/** In the order in which the kernel finds them. */
export async function openDevices(
  { disks, tap }: Pick<LinuxSettings, 'disks' | 'tap'>,
  { readOnly, opened, note }: OpenOptions,
): Promise<DeviceSpec[]> {
  const blocks = disks.map((path): DeviceSpec => {
    const { fd } = opened.use(openDisk({ path, readOnly }));
    return { kind: 'block', fd, readOnly, id: basename(path).slice(0, diskIdBytes) };
  });
  if (tap === undefined) return blocks;
  const { fd, isUp } = opened.use(await openHostTap(tap));
  if (!isUp) note(`${tap} is down, and carries nothing until: ip link set ${tap} up`);
  return [...blocks, { kind: 'net', tap: fd, mac: macOf(tap) }];
}
