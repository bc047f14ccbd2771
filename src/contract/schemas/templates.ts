/** Templates: virtual machines that booted ahead of time, to be copied. */
import { z } from 'zod';
import { bytes, id, name, time } from './common.ts';
import { failure, limits } from './machines.ts';

export const templateState = z.enum(['making', 'ready', 'failed', 'stale']);

/** What a copy has the same as its template; disks may be of any size. */
const machineSize = limits.pick({ cpus: true, memoryBytes: true });

/** Copies that are loaded ahead of time; each holds memory. */
const ready = z.int().min(0).max(32);

export const template = z.strictObject({
  id,
  image: name,
  /** Content of the image. A newer image of that name gets a template of its own. */
  imageHash: z.string(),
  limits: machineSize,
  /** `stale`: QEMU, the host or the image has changed since. */
  state: templateState,
  failure: failure.omit({ at: true }).nullable(),
  /** Asked for: it is not removed to make room for another. */
  kept: z.boolean(),
  /** On the host's disk. */
  bytes: bytes.nullable(),
  /** How many copies shall be loaded and wait. */
  ready,
  /** How many do. */
  waiting: z.int().min(0),
  lastUsedAt: time.nullable(),
  createdAt: time,
});
export type Template = z.infer<typeof template>;

export const newTemplate = z.strictObject({
  image: name,
  limits: machineSize.prefault({}),
  /** Left out: as it was; none for a new one. */
  ready: ready.optional(),
});
export type NewTemplate = z.infer<typeof newTemplate>;
