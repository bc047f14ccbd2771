/**
 * What a page and the server of a session say to each other: JSON, checked on arrival. Addresses and registers are
 * hexadecimal text (`0x400`), for JSON has no integers of 64 bits.
 */
import { z } from 'zod';
import { debugKinds } from '#kvm/debug.ts';
import { mostSteps } from '../session/vcpu.ts';

/** The WebSocket subprotocol. A browser, which cannot set headers, offers `carrel.bearer.TOKEN` beside it. */
export const vmmProtocol = 'carrel-vmm.v1';
export const tokenProtocol = 'carrel.bearer.';

/** What is read or written of memory in one command. */
export const mostBytes = 65_536;

const hexNumber = z.string().regex(/^0x[0-9a-f]{1,16}$/i, 'hexadecimal, as 0x400');
const vcpu = z.int().min(0).max(63).default(0);
/** An address, a symbol, or a symbol with an offset. */
const place = z.string().min(1).max(256);

export const command = z.discriminatedUnion('do', [
  z.strictObject({ do: z.literal('step'), vcpu, count: z.int().min(1).max(mostSteps).default(1) }),
  z.strictObject({ do: z.literal('continue'), vcpu }),
  z.strictObject({ do: z.literal('pause'), vcpu }),
  z.strictObject({ do: z.literal('reset') }),
  z.strictObject({ do: z.literal('break'), place, on: z.enum(debugKinds).default('execute') }),
  z.strictObject({ do: z.literal('unbreak'), number: z.int().min(1) }),
  z.strictObject({ do: z.literal('set'), vcpu, register: z.string().max(8), value: hexNumber }),
  z.strictObject({
    do: z.literal('read'),
    vcpu,
    place,
    bytes: z.int().min(1).max(mostBytes),
    physical: z.boolean().default(false),
  }),
  z.strictObject({
    do: z.literal('write'),
    vcpu,
    place,
    bytes: z
      .string()
      .regex(/^(?:[0-9a-f]{2})+$/i, 'pairs of hexadecimal digits')
      .max(mostBytes * 2),
  }),
  z.strictObject({ do: z.literal('walk'), vcpu, place }),
  z.strictObject({
    do: z.literal('code'),
    vcpu,
    place: place.optional(),
    count: z.int().min(1).max(256).default(16),
  }),
  z.strictObject({ do: z.literal('snapshot') }),
  /** Ends the session and its server. */
  z.strictObject({ do: z.literal('end') }),
]);
export type Command = z.infer<typeof command>;

/** A command on a WebSocket; the reply bears the same id. */
export const request = z.strictObject({ id: z.int().min(0), command });

const counted = { dropped: z.int() };
const breakpoint = z.strictObject({
  number: z.int().optional(),
  kind: z.enum(debugKinds),
  address: hexNumber,
  bytes: z.int(),
  label: z.string(),
});
const exit = z.strictObject({
  number: z.int(),
  ns: z.int(),
  reason: z.string(),
  port: z.int().optional(),
  address: z.int().optional(),
  direction: z.enum(['in', 'out']).optional(),
  size: z.int().optional(),
  value: z.union([z.int(), hexNumber]).optional(),
  count: z.int().optional(),
});
const step = z.strictObject({
  rip: hexNumber,
  bytes: z.string(),
  text: z.string(),
  changed: z.record(z.string(), hexNumber),
});
const at = { vcpu: z.int() };

/** session/events.ts, as JSON. */
export const event = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('running'), ...at }),
  z.strictObject({ kind: z.literal('output'), ...at, text: z.string() }),
  z.strictObject({ kind: z.literal('exits'), ...at, ...counted, exits: z.array(exit) }),
  z.strictObject({ kind: z.literal('steps'), ...at, steps: z.array(step) }),
  z.strictObject({
    kind: z.literal('stopped'),
    ...at,
    end: z.looseObject({ kind: z.string() }),
    sentence: z.string(),
    isOver: z.boolean(),
    exits: z.int(),
    registers: z.record(z.string(), hexNumber),
  }),
  z.strictObject({ kind: z.literal('breakpoints'), breakpoints: z.array(breakpoint) }),
  z.strictObject({ kind: z.literal('changed'), ...at, what: z.string() }),
  z.strictObject({ kind: z.literal('reset') }),
]);

const problem = z.strictObject({ code: z.string(), detail: z.string(), hint: z.string().optional() });

/** What the server says on a WebSocket. */
export const message = z.union([
  /** First: the number of the event that comes next, and how many before it are no longer kept. */
  z.strictObject({ hello: z.strictObject({ next: z.int(), lost: z.int() }) }),
  /** An event. Numbers have no gaps, but for events that were lost to a slow reader: then `lost` came before. */
  z.strictObject({ seq: z.int(), ms: z.int(), event }),
  z.strictObject({ lost: z.int() }),
  z.strictObject({ id: z.int().nullable(), result: z.unknown() }),
  z.strictObject({ id: z.int().nullable(), problem }),
]);
export type Message = z.infer<typeof message>;
