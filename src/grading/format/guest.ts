/** Checks on a guest of the hypervisor: how it is compiled and run, what is expected, what is asked about it. */
import { z } from 'zod';
import { exitReasons } from '#kvm/abi/exits.ts';
import { registerNames } from '#kvm/registers.ts';
import { findFact } from '#vmm/inspect/facts.ts';
import { portMaps } from '#vmm/hypercalls/maps.ts';
import { windowBytes } from '#vmm/layout.ts';
import { modeNames } from '#vmm/modes/mode.ts';
import { fileExpectation, textExpectation } from './expectations.ts';
import { notEmpty, oneOf, placed, relativePath } from './fields.ts';

const portMap = z
  .string()
  .refine(
    (name) => portMaps.some((map) => map.name === name),
    `must be one of ${portMaps.map(({ name }) => name).join(', ')}`,
  );

/** A file of the share before the run. */
const sharedFile = z
  .strictObject({
    path: relativePath,
    text: z.string().max(65_536).optional(),
    from: relativePath.optional(),
  })
  .superRefine(oneOf(['text', 'from']));

const runFields = {
  /** The guest: a submitted file. */
  file: relativePath.optional(),
  /** Or one below tests/, which the student's code never sees. */
  test: relativePath.optional(),
  /** More submitted files, linked to it. */
  with: z.array(relativePath).max(20).default([]),
  /** Files below tests/ that lie beside the sources: headers. */
  files: z.array(placed).max(50).default([]),
  /** What the sources may include: all of the kit, or ports.h alone, so that the rest is to be written. */
  kit: z.enum(['full', 'ports']).default('full'),
  mode: z.enum(modeNames).default('long'),
  vcpus: z.int().min(1).max(16).default(1),
  ports: portMap.default('carrel'),
  /** A folder that the guest may open files in, and what is in it at first. */
  share: z.array(sharedFile).max(50).optional(),
  /** Runs one after the other in the same share; what is expected is expected of the last one. */
  runs: z.int().min(1).max(8).default(1),
};

interface RunFields {
  readonly file?: string | undefined;
  readonly test?: string | undefined;
  readonly mode: string;
  readonly vcpus: number;
}

function refineRun(it: RunFields, context: z.RefinementCtx): void {
  oneOf(['file', 'test'])(it, context);
  if (it.vcpus > 1 && it.mode !== 'long')
    context.addIssue({ code: 'custom', message: 'several vCPUs need long mode' });
}

export const guestRun = z.strictObject(runFields).superRefine(refineRun);
export type GuestRun = z.infer<typeof guestRun>;

const count = z.int().min(0);
/** A number, or from and to. */
const bound = z.union([
  count,
  z.strictObject({ min: count.optional(), max: count.optional() }).superRefine(notEmpty),
]);
export type Bound = z.infer<typeof bound>;

const whole = z.union([z.int(), z.bigint()]);
const port = z.string().regex(/^(?:0x[0-9a-fA-F]{1,4}|\d{1,5})$/, 'must be the number of a port');
const widths = [1, 2, 4, 8] as const;

/** eax and ax are parts of rax: what a C function of type int, and 16-bit code, leave there. */
export const namedRegisters = [...registerNames, 'eax', 'ax'] as const;
export type NamedRegister = (typeof namedRegisters)[number];

const memoryWord = z
  .strictObject({
    /** Guest-physical, from the beginning of the vCPU's memory. */
    at: z
      .int()
      .min(0)
      .max(windowBytes - 1),
    bytes: z.literal(widths).default(8),
    value: whole,
  })
  .refine(({ at, bytes }) => at + bytes <= windowBytes, 'goes beyond the memory of a vCPU');

export const ends = [
  'halted',
  'unknown port',
  'bad pointer',
  'time limit',
  'output limit',
  'gave up',
  'fault',
] as const;

/** A reason that does not exist would be none that a guest ever leaves for: 0 of it would always be right. */
const exitName = z
  .string()
  .refine(
    (name) => name === 'total' || Object.hasOwn(exitReasons, name),
    `must be total, or one of ${Object.keys(exitReasons).join(', ')}`,
  );

const vcpuFields = {
  /** How it ends; halted unless given. */
  end: z.enum(ends).optional(),
  output: textExpectation.optional(),
  /** By reason, such as IO and HLT; `total` is all of them. */
  exits: z.record(exitName, bound).optional(),
  ports: z
    .record(port, z.strictObject({ in: bound.optional(), out: bound.optional() }).superRefine(notEmpty))
    .optional(),
  registers: z.partialRecord(z.enum(namedRegisters), whole).optional(),
  memory: z.array(memoryWord).min(1).max(64).optional(),
};

const vcpuExpectation = z.strictObject(vcpuFields).superRefine(notEmpty);
export type VcpuExpectation = z.infer<typeof vcpuExpectation>;

export const guestExpectation = z
  .strictObject({
    // of every vCPU
    ...vcpuFields,
    /** Of each vCPU besides, the first one first. */
    vcpus: z.array(vcpuExpectation).min(1).max(16).optional(),
    /** In the share, after the run. */
    files: z.array(fileExpectation).min(1).max(50).optional(),
  })
  .superRefine(notEmpty);
export type GuestExpectation = z.infer<typeof guestExpectation>;

export const guestSpec = z
  .strictObject({ ...runFields, expect: guestExpectation })
  .superRefine((it, context) => {
    refineRun(it, context);
    if (it.expect.files && !it.share)
      context.addIssue({ code: 'custom', message: 'expects files, but gives the guest no share' });
    if ((it.expect.vcpus?.length ?? 0) > it.vcpus)
      context.addIssue({ code: 'custom', message: 'expects something of more vCPUs than there are' });
  });
export type GuestSpec = z.infer<typeof guestSpec>;

const factName = z
  .string()
  .max(100)
  .refine((name) => findFact(name) !== undefined, 'is no fact; labs/README.md lists them');

/** Questions about a machine, answered by the student in a file, and by the machine itself. */
export const answersSpec = z.strictObject({
  /** The submitted file: YAML, one answer for each key. */
  file: relativePath,
  guest: guestRun,
  /** Key in that file -> fact. */
  questions: z
    .record(z.string().regex(/^[A-Za-z][A-Za-z0-9_.-]{0,63}$/, 'must be a name'), factName)
    .refine((it) => Object.keys(it).length > 0, 'asks nothing, so everything would pass'),
});
export type AnswersSpec = z.infer<typeof answersSpec>;
