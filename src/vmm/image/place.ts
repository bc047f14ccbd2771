/** Puts a guest's image and its paging structures into a window, so that they do not overlap. */
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { pageBytes } from '#kvm/memory.ts';
import { defaultTables, type Layout, windowBytes } from '../layout.ts';
import type { Mode } from '../modes/mode.ts';
import type { GuestImage } from './image.ts';

/** The least that is left for the stack. */
const leastStack = 0x1_0000;

/** Where the tables go: at 0x2000 as in the assignment, or behind an image that is larger. */
export function placeTables(image: GuestImage, mode: Mode): number {
  const tables = Math.max(defaultTables, Math.ceil(image.end / pageBytes) * pageBytes);
  const room = windowBytes - leastStack - mode.tableBytes;
  if (tables > room)
    throw new CarrelError(
      'too_large',
      `the guest needs ${formatSize(image.end)}; ${formatSize(room)} is what tables and stack leave of its ${formatSize(windowBytes)}`,
    );
  return tables;
}

export function placeImage(image: GuestImage, { memory, base }: Layout): void {
  for (const part of image.parts) memory.bytes.set(part.bytes, base + part.at);
}
