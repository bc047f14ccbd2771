/** Snapshots, copies and passwords of machines. */
import { z } from 'zod';
import { bytes, id, name, time } from './common.ts';

export const snapshot = z.strictObject({
  id,
  machineId: id,
  name,
  state: z.enum(['creating', 'ready', 'deleting']),
  /** What it holds on the host's disk by itself; null until it is ready. */
  bytes: bytes.nullable(),
  createdAt: time,
});
export type Snapshot = z.infer<typeof snapshot>;

export const newSnapshot = z.strictObject({ name });

export const newClone = z.strictObject({
  name,
  /** Copy this snapshot of it (id or name); the disk as it is now unless given. */
  snapshot: z.string().max(63).optional(),
  /** Start it at once. */
  start: z.boolean().default(true),
});
export type NewClone = z.infer<typeof newClone>;

/** Shown once and kept nowhere. */
export const newPassword = z.strictObject({ user: z.literal('root'), password: z.string() });
