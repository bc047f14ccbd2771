/** Networks that machines are put into. */
import { z } from 'zod';
import { id, name, time } from './common.ts';

/** Who hears whom: machines of one owner, or all of them. */
export const networkIsolation = z.enum(['owner', 'open']);

/**
 * `bridge`: all machines in one range. `routed`: machine x (1 to 55) has a subnet of its own, 192.168.{200+x}.0/24,
 * in which the host is .1 and the machine .2.
 */
export const networkLayout = z.enum(['bridge', 'routed']);

export const network = z.strictObject({
  id,
  name,
  bridge: z.string().nullable(),
  cidr: z.string(),
  gateway: z.string(),
  nat: z.boolean(),
  dhcp: z.boolean(),
  isolation: networkIsolation,
  layout: networkLayout,
  /** Addresses in use. */
  addresses: z.int(),
  createdAt: time,
});
export type Network = z.infer<typeof network>;

export const newNetwork = z.strictObject({
  name,
  /** A private range, /16 to /29, such as 10.9.0.0/24; one that is free is found unless given. */
  cidr: z.string().max(18).optional(),
  /** May its machines reach the outside? */
  nat: z.boolean().default(true),
  /** Are there DHCP, and names of machines by DNS? */
  dhcp: z.boolean().default(true),
  isolation: networkIsolation.default('owner'),
  layout: networkLayout.default('bridge'),
});
export type NewNetwork = z.infer<typeof newNetwork>;
