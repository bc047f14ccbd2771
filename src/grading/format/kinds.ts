/** The kinds of checks: run a command, call a function, observe a machine. */
import { z } from 'zod';
import { runExpectation } from './expectations.ts';
import { absolutePath, argv, environment, ipv4, oneOf, placed, relativePath, size, value } from './fields.ts';
import { limitFields } from './limits.ts';
import { parseSignature } from './signature.ts';

/** An author's program that judges a run, outside the student's sandbox, by the rules of Kattis. */
export const judgeSpec = z.strictObject({
  argv,
  limits: limitFields.optional(),
  /** Files of the run that the judge may read, below `files/` of its second argument. */
  files: z.array(relativePath).max(50).default([]),
});
export type JudgeSpec = z.infer<typeof judgeSpec>;

export const runSpec = z
  .strictObject({
    argv,
    env: environment.default({}),
    stdin: z.string().max(262_144).optional(),
    /** Standard input from a file below tests/. */
    stdinFile: relativePath.optional(),
    /** Placed beside the submission's files before the run; the student's program can read them. */
    files: z.array(placed).max(100).default([]),
    expect: runExpectation.optional(),
    judge: judgeSpec.optional(),
  })
  .refine(
    (it) => it.stdin === undefined || it.stdinFile === undefined,
    'stdin and stdinFile exclude each other',
  )
  .refine(
    (it) => it.expect !== undefined || it.judge !== undefined,
    'needs expect or judge, else it has no verdict',
  );
export type RunSpec = z.infer<typeof runSpec>;

const args = z.array(value).max(32);

const caseFields = {
  returns: value.optional(),
  /** Python: the name of the exception's class. */
  raises: z
    .string()
    .regex(/^[A-Za-z_][A-Za-z0-9_.]*$/, 'must be the name of an exception')
    .optional(),
  tolerance: z.number().min(0).optional(),
};

const callCase = z
  .strictObject({ args: args.default([]), ...caseFields })
  .superRefine(oneOf(['returns', 'raises']));
export type CallCase = z.infer<typeof callCase>;

const identifier = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'must be the name of a function');

/** One case may stand directly in the check; several in `cases`, each a process of its own. */
export const callSpec = z
  .strictObject({
    language: z.enum(['python', 'c']),
    file: relativePath,
    function: identifier,
    /** C: such as `int f(int, double, char *)`. */
    signature: z.string().max(200).optional(),
    /** C: more arguments for the compiler, such as `-lm`. */
    flags: z.array(z.string().max(200)).max(20).default([]),
    ...caseFields,
    args: args.optional(),
    cases: z.array(callCase).min(1).max(50).optional(),
  })
  .superRefine((it, context) => {
    const fail = (message: string): void => context.addIssue({ code: 'custom', message });
    if (it.cases === undefined) oneOf(['returns', 'raises'])(it, context);
    else if (it.args !== undefined || it.returns !== undefined || it.raises !== undefined)
      fail('write args, returns and raises inside the cases');
    const cases = it.cases ?? [{ ...it, args: it.args ?? [] }];
    if (it.language === 'python') {
      if (it.signature !== undefined || it.flags.length > 0) fail('signature and flags are for C');
      return;
    }
    if (it.signature === undefined) return fail('C needs a signature, such as: int f(int, double)');
    if (cases.some((one) => one.raises !== undefined)) fail('a C function raises nothing');
    try {
      const signature = parseSignature(it.signature);
      if (signature.name !== it.function) fail(`the signature names ${signature.name}, not ${it.function}`);
      for (const one of cases) signature.check(one.args, one.returns);
    } catch (error) {
      fail(error instanceof Error ? error.message : String(error));
    }
  });
export type CallSpec = z.infer<typeof callSpec>;

/** Namespaces by the names they have below /proc/PID/ns. */
export const namespaceKind = z.enum(['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts']);
export type NamespaceKind = z.infer<typeof namespaceKind>;

const checkName = z.string().max(63);
/** The id of a `process` check: its process is meant. Without it, the machine's own init. */
const of = checkName.optional();

export const processSpec = z
  .strictObject({
    /** Namespaces in which it must differ from the machine's init. */
    own: z.array(namespaceKind).min(1).optional(),
    hostname: z.string().min(1).max(64).optional(),
    /** The process's name as the kernel has it (proc_pid_comm(5)); anyone can change his own, so it proves little. */
    comm: z.string().min(1).max(15).optional(),
  })
  .refine(
    (it) => it.own !== undefined || it.hostname !== undefined || it.comm !== undefined,
    'expects nothing',
  );
export type ProcessSpec = z.infer<typeof processSpec>;

export const pingSpec = z.strictObject({
  /** Of another namespace in a container; a virtual machine is asked at its own. */
  address: ipv4.optional(),
  from: of,
});

export const machineFileSpec = z
  .strictObject({
    path: absolutePath,
    contains: z.string().min(1).max(65_536).optional(),
    exact: z.string().max(65_536).optional(),
    absent: z.literal(true).optional(),
  })
  .superRefine(oneOf(['contains', 'exact', 'absent']));
export type MachineFileSpec = z.infer<typeof machineFileSpec>;

export const listenSpec = z.strictObject({
  port: z.int().min(1).max(65_535),
  /** Sent after connecting. */
  send: z.string().max(4096).optional(),
  /** Must be in the first 64 KiB of what comes back. */
  answers: z.string().min(1).max(4096).optional(),
});
export type ListenSpec = z.infer<typeof listenSpec>;

export const mountsSpec = z.strictObject({
  of,
  path: absolutePath,
  type: z.string().min(1).max(64).optional(),
  options: z.array(z.string().min(1).max(64)).max(16).default([]),
  absent: z.literal(true).optional(),
});
export type MountsSpec = z.infer<typeof mountsSpec>;

export const interfaceSpec = z
  .strictObject({
    of,
    name: z.string().min(1).max(15).optional(),
    /** An address of the namespace itself. */
    address: ipv4.optional(),
    absent: z.literal(true).optional(),
  })
  .refine((it) => it.name !== undefined || it.address !== undefined, 'needs a name or an address');
export type InterfaceSpec = z.infer<typeof interfaceSpec>;

/** What the machine has written to its serial line since it was switched on last. */
export const consoleSpec = z.strictObject({ contains: z.string().min(1).max(4096) });
export type ConsoleSpec = z.infer<typeof consoleSpec>;

export const observations = ['process', 'ping', 'file', 'listen', 'mounts', 'interface', 'console'] as const;

export const observeSpec = z
  .strictObject({
    process: processSpec.optional(),
    ping: pingSpec.optional(),
    file: machineFileSpec.optional(),
    listen: listenSpec.optional(),
    mounts: mountsSpec.optional(),
    interface: interfaceSpec.optional(),
    console: consoleSpec.optional(),
  })
  .superRefine(oneOf(observations));
export type ObserveSpec = z.infer<typeof observeSpec>;

/** The check whose process an observation is about, if it names one. */
export function subjectOf(observe: ObserveSpec): string | undefined {
  return observe.ping?.from ?? observe.mounts?.of ?? observe.interface?.of;
}

/** Compiles or prepares a submission, once, in a sandbox of its own; the files kept go into every check. */
export const buildSpec = z.strictObject({
  argv,
  env: environment.default({}),
  files: z.array(placed).max(100).default([]),
  keep: z.array(relativePath).min(1).max(50),
  maxSize: size(64 * 2 ** 20, '64 MiB').default(16 * 2 ** 20),
  limits: limitFields.optional(),
});
export type BuildSpec = z.infer<typeof buildSpec>;
