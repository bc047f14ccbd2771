/** Port forwards: a port of the host that leads to a port of a machine. */
import { z } from 'zod';
import { id, name, time } from './common.ts';

export const newForward = z.strictObject({
  /** The host's address to listen on; administrators may choose others than those of the loopback. */
  host: z.union([z.ipv4(), z.ipv6()]).default('127.0.0.1'),
  /** Below 1024 are the host's own. */
  port: z.int().min(1024).max(65535),
  machinePort: z.int().min(1).max(65535),
});
export type NewForward = z.infer<typeof newForward>;

export const forward = z.strictObject({
  id,
  machineId: id,
  /** The machine's name. */
  machine: name,
  host: z.string(),
  port: z.int(),
  machinePort: z.int(),
  /** `failed`: nothing listens there, `error` says why; it is tried again by itself. */
  state: z.enum(['listening', 'failed']),
  error: z.string().nullable(),
  /** Open now. */
  connections: z.int(),
  createdAt: time,
});
export type Forward = z.infer<typeof forward>;
