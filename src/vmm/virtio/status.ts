/**
 * The device status field (2.1, 3.1.1): how driver and device tell each other how far they are.
 *
 *   0 ── ACKNOWLEDGE ── DRIVER ── FEATURES_OK ── DRIVER_OK: the device works
 *   ↑                                  (refused if the features are not a subset of those offered)
 *   └── a write of 0, from anywhere; FAILED and DEVICE_NEEDS_RESET are left in no other way
 */

export const ACKNOWLEDGE = 1;
export const DRIVER = 2;
export const DRIVER_OK = 4;
export const FEATURES_OK = 8;
export const DEVICE_NEEDS_RESET = 64;
export const FAILED = 128;

/** The bits in the order in which a driver sets them, each with the one that has to be there. */
const steps: readonly (readonly [bit: number, after: number])[] = [
  [ACKNOWLEDGE, 0],
  [DRIVER, ACKNOWLEDGE],
  [FEATURES_OK, DRIVER],
  [DRIVER_OK, FEATURES_OK],
];

/**
 * The status after the driver wrote `written`, which is not 0 (that is a reset). Several steps in one write are
 * taken one after the other. Ignored: clearing bits (2.1.1), a step before the one that it builds on (3.1.1),
 * DEVICE_NEEDS_RESET (the device's own), bits that do not exist, and every step once the device has failed.
 */
export function nextStatus(status: number, written: number, acceptsFeatures: () => boolean): number {
  let next = status | (written & FAILED);
  if ((next & (FAILED | DEVICE_NEEDS_RESET)) !== 0) return next;
  for (const [bit, after] of steps) {
    if ((written & bit) === 0 || (next & bit) !== 0 || (next & after) !== after) continue;
    if (bit !== FEATURES_OK || acceptsFeatures()) next |= bit;
  }
  return next;
}

/** May the device use its queues? */
export function isLive(status: number): boolean {
  return (status & (DRIVER_OK | FAILED | DEVICE_NEEDS_RESET)) === DRIVER_OK;
}
