/**
 * A machine in a process of its own: what the process is told, and what it says at its end. Both are JSON; the report
 * is read as something foreign, for the process has run a stranger's guest.
 */
import { z } from 'zod';
import { mostVcpus } from '../threads.ts';
import { modeNames } from '../modes/mode.ts';

/** Descriptors of the process besides the standard ones. */
export const descriptors = { report: 3, kvm: 4 } as const;

/** So many words of memory may be asked for. */
export const mostWords = 256;

const word = z.strictObject({
  /** Offset in the window of each vCPU. */
  at: z.int().min(0),
  bytes: z.union([z.literal(1), z.literal(2), z.literal(4), z.literal(8)]),
});
export type Word = z.infer<typeof word>;

export const runOrder = z.strictObject({
  /** An ELF program, or machine code as it is. */
  guest: z.string().min(1),
  mode: z.enum(modeNames),
  vcpus: z.int().min(1).max(mostVcpus),
  /** Name of a port map. */
  ports: z.string().min(1).max(64),
  limitMs: z.int().min(1),
  /** Bytes that each vCPU may print. */
  outputBytes: z.int().min(0),
  share: z.string().nullable(),
  /** What the guest may do to it, all vCPUs and one run together; null: what is usual (share.ts). */
  room: z.strictObject({ files: z.int().min(0), bytes: z.int().min(0) }).nullable(),
  /** One after the other, each in a new machine, with the same share. The report is about the last one. */
  runs: z.int().min(1).max(16),
  /** For somebody who watches: a line `{"began":true}` comes before the report, and text goes to a terminal as well. */
  live: z.boolean(),
  words: z.array(word).max(mostWords),
  /** See inspect/facts.ts. */
  facts: z.array(z.string().max(100)).max(1000),
});
export type RunOrder = z.infer<typeof runOrder>;

const count = z.int().min(0);
/** 64 bits in hexadecimal: more than a number of JSON holds. */
const bits = z.string().regex(/^0x[0-9a-f]{1,16}$/);

const vcpuReport = z.strictObject({
  output: z.string(),
  end: z.strictObject({
    /** See end.ts; of a fault, `fault`. */
    kind: z.string().max(64),
    sentence: z.string().max(4096),
  }),
  exits: z.strictObject({
    total: count,
    byReason: z.record(z.string().max(64), count),
    ports: z.array(z.strictObject({ port: count, direction: z.enum(['in', 'out']), count })),
  }),
  registers: z.record(z.string().max(16), bits),
  /** In the order of the words of the order; null: outside of memory. */
  words: z.array(bits.nullable()),
  ms: z.number(),
});
export type VcpuReport = z.infer<typeof vcpuReport>;

export const runReport = z.union([
  /** The guest cannot be run: too large, no program. */
  z.strictObject({ refused: z.string().max(4096) }),
  z.strictObject({
    vcpus: z.array(vcpuReport),
    /** Numbers in decimal. */
    facts: z.record(z.string(), z.string().max(200)),
  }),
]);
export type RunReport = z.infer<typeof runReport>;
