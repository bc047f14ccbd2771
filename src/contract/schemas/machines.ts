/** Machines and images. */
import { z } from 'zod';
import { numbered } from '#base/numbered.ts';
import { imageFormats } from '../image-formats.ts';
import { bytes, id, labels, line, milliseconds, name, page, time, wait } from './common.ts';
import { sshKeys } from './keys.ts';
import { starter } from './starter.ts';

export const machineState = z.enum(['stopped', 'running', 'paused', 'failed']);
export type MachineState = z.infer<typeof machineState>;

/** What is being done to the machine right now, beside its state. */
export const activity = z.enum([
  'creating',
  'starting',
  'stopping',
  'restarting',
  'pausing',
  'resuming',
  'deleting',
  'snapshotting',
  'restoring',
]);
export type Activity = z.infer<typeof activity>;

export const driverName = z.enum(['container', 'qemu', 'micro']);
export type DriverName = z.infer<typeof driverName>;

/** Every machine has limits; these are the defaults of a container. */
export const limits = z.strictObject({
  /** Cores, fractions allowed: 0.5 is half of one core's time. */
  cpus: z.number().min(0.05).max(256).default(1),
  memoryBytes: bytes.min(16 * 2 ** 20).default(512 * 2 ** 20),
  processes: z.int().min(8).max(100_000).default(512),
  /** The writable layer; the image itself does not count. */
  diskBytes: bytes.min(8 * 2 ** 20).default(2 * 2 ** 30),
});
export type Limits = z.infer<typeof limits>;

/** What a new machine asks for. */
export const newLimits = limits.extend({
  /** Unless given: 2 GiB, or the size of the image's own disk if that is more. */
  diskBytes: limits.shape.diskBytes.unwrap().optional(),
});

/** How a machine came to run: what its user may want to know about its speed. */
export const runtime = z.strictObject({
  /** `tcg`: emulated, in want of hardware for it; null for a container, which needs none. */
  accelerator: z.enum(['kvm', 'tcg']).nullable(),
  /** `template`: it went on from where another one had booted to. */
  startedFrom: z.enum(['image', 'template']),
  /** Why it is not faster, in a sentence. */
  note: z.string().nullable(),
});
export type Runtime = z.infer<typeof runtime>;

const bytesPerSecond = bytes.min(1024).nullable();
const idleFreezeSeconds = z.int().min(1).max(86_400).nullable();

export const failure = z.strictObject({
  code: z.string(),
  message: z.string(),
  hint: z.string().nullable(),
  at: time,
});
export type Failure = z.infer<typeof failure>;

export const machine = z.strictObject({
  id,
  name,
  owner: name,
  courseId: id.nullable(),
  labId: id.nullable(),
  driver: driverName,
  image: name,
  state: machineState,
  activity: activity.nullable(),
  /** Running, but frozen for being idle: it wakes when something is wanted of it. */
  asleep: z.boolean(),
  /** null while it does not run. */
  runtime: runtime.nullable(),
  failure: failure.nullable(),
  /** Grows by one with every change of state or activity: `GET ...?gen=N&wait=30` returns once it has moved past N. */
  gen: z.int(),
  network: name.nullable(),
  address: z.string().nullable(),
  mac: z.string().nullable(),
  limits,
  bytesPerSecond,
  idleFreezeSeconds,
  labels,
  createdAt: time,
  expiresAt: time.nullable(),
});
export type Machine = z.infer<typeof machine>;

export const newMachine = z.strictObject({
  name,
  image: name.default('debian-12'),
  driver: driverName.default('container'),
  /** A course's or a lab's machine can be seen by its staff. */
  course: name.optional(),
  limits: newLimits.prefault({}),
  /** Its network, by name. */
  network: name.default('default'),
  /** Which subnet it gets, in a network with the routed layout; the lowest free one unless given. */
  networkNumber: z.int().min(numbered.first).max(numbered.last).optional(),
  /** Who may come in as root by ssh. */
  sshKeys: sshKeys.default([]),
  /** What it may send and receive in a second, each. */
  bytesPerSecond: bytesPerSecond.default(null),
  /** Freeze it when it has done nothing for so long; it wakes when something is wanted of it. */
  idleFreezeSeconds: idleFreezeSeconds.default(null),
  labels: labels.default({}),
  /** Start it at once. */
  start: z.boolean().default(true),
  /** Run by itself when the machine is ready for the first time: see its scripts. */
  starter: starter.optional(),
  /** Delete it after this many seconds; never unless given. */
  ttlSeconds: z
    .int()
    .min(60)
    .max(365 * 86_400)
    .optional(),
});
export type NewMachine = z.infer<typeof newMachine>;

export const machineOrder = z.enum(['name', '-name', 'created', '-created']);
export type MachineOrder = z.infer<typeof machineOrder>;

export const machineQuery = page.extend({
  state: machineState.optional(),
  owner: name.optional(),
  course: name.optional(),
  /** `key=value`: machines that carry this label. */
  label: z.string().max(130).optional(),
  /** With `-` the other way round; in the order of their ids unless given, which is the quickest. */
  sort: machineOrder.optional(),
});

export const machineWait = z.strictObject({ gen: z.coerce.number().int().min(0).optional(), wait });

export const stopOptions = z.strictObject({
  /** How long an orderly stop may take before the power goes off. */
  graceMs: milliseconds.max(120_000).default(5000),
});

export const runRequest = z.strictObject({
  argv: z.array(z.string().max(65_536)).min(1).max(1000),
  env: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), z.string().max(65_536)).default({}),
  cwd: z.string().max(4096).default('/root'),
  user: z.string().max(64).default('root'),
  /** Base64; end-of-file after it. */
  stdin: z
    .base64()
    .max(16 * 2 ** 20)
    .default(''),
  limitMs: milliseconds.min(10).max(3_600_000).default(60_000),
  outputBytes: bytes.max(16 * 2 ** 20).default(2 ** 20),
});
export type RunRequest = z.infer<typeof runRequest>;

/** How a program ended. */
export const programEnd = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('exited'), status: z.int() }),
  z.strictObject({ kind: z.literal('signaled'), signal: z.string() }),
  z.strictObject({
    kind: z.literal('killed'),
    reason: z.enum(['cpu', 'wall', 'memory', 'output', 'cancelled']),
  }),
]);
export type ProgramEnd = z.infer<typeof programEnd>;

export const runReply = z.strictObject({
  end: programEnd,
  /** Base64 of what was kept of each stream. */
  stdout: z.base64(),
  stderr: z.base64(),
  wallMs: z.number(),
});
export type RunReply = z.infer<typeof runReply>;

/** A program that goes on without its caller: its output and end can be fetched later, and attached to. */
export const newExec = z.strictObject({
  argv: runRequest.shape.argv,
  env: runRequest.shape.env,
  cwd: runRequest.shape.cwd,
  user: runRequest.shape.user,
  tty: z
    .strictObject({ rows: z.int().min(1).max(1000), columns: z.int().min(1).max(1000) })
    .nullable()
    .default(null),
});
export const exec = z.strictObject({
  id,
  machineId: id,
  argv: z.array(z.string()),
  tty: z.boolean(),
  startedAt: time,
  endedAt: time.nullable(),
  end: programEnd.nullable(),
  /** Bytes of output since its start; the first and the last MiB are kept. */
  outputBytes: bytes,
});
export type Exec = z.infer<typeof exec>;

/** Where to read or write a file in a machine, and with which mode. A path begins at the machine's root. */
export const fileQuery = z.strictObject({
  path: z
    .string()
    .min(1)
    .max(4096)
    .regex(/^[^\p{Cc}\p{Cs}]*$/u, 'may not contain control characters')
    .refine((path) => !path.split('/').includes('..'), 'may not climb with ..'),
  mode: z
    .string()
    .regex(/^[0-7]{3,4}$/)
    .default('0644'),
});

/** Attach from an absolute byte offset. */
export const attachQuery = z.strictObject({
  from: z.coerce.number().int().min(0).optional(),
  rows: z.coerce.number().int().min(1).max(1000).optional(),
  columns: z.coerce.number().int().min(1).max(1000).optional(),
});

export const transcriptQuery = attachQuery.pick({ from: true });

export const stats = z.strictObject({
  cpuMs: z.number(),
  memoryBytes: bytes.nullable(),
  peakMemoryBytes: bytes.nullable(),
  processes: z.int().nullable(),
  diskBytes: bytes.nullable(),
  oomKills: z.int(),
  network: z.strictObject({ receivedBytes: bytes, sentBytes: bytes }).nullable(),
  /** How often the guest's processors have given control back to the host (KVM exits); null where nobody counts them. */
  exits: z.int().nullable(),
});
export type Stats = z.infer<typeof stats>;

const whole = z.int().min(0);
/** 64 bits in hexadecimal. */
const word = z.string().regex(/^0x[0-9a-f]{1,16}$/);

/** The last run of a machine that runs a guest of the hypervisor. */
export const inspection = z.strictObject({
  vcpus: z.array(
    z.strictObject({
      output: z.string(),
      end: z.strictObject({ kind: z.string(), sentence: z.string() }),
      exits: z.strictObject({
        total: whole,
        byReason: z.record(z.string(), whole),
        ports: z.array(z.strictObject({ port: whole, direction: z.enum(['in', 'out']), count: whole })),
      }),
      registers: z.record(z.string(), word),
      ms: z.number(),
    }),
  ),
  /** What the machine was, by name: see labs/README.md. */
  facts: z.record(z.string(), z.string()),
});
export type Inspection = z.infer<typeof inspection>;

export const image = z.strictObject({
  id,
  name,
  kind: z.enum(['rootfs', 'disk', 'guest']),
  hash: z.string().nullable(),
  state: z.enum(['building', 'ready', 'failed']),
  bytes,
  files: z.int(),
  description: line(500),
  /** Its recipe would make it differently today; it can be used all the same. */
  outdated: z.boolean(),
  createdAt: time,
});
export type Image = z.infer<typeof image>;

/** With what its recipe ran in the machine itself, once it had booted from the finished disk. */
export const imageDetails = image.extend({
  online: z.array(
    z.strictObject({
      argv: z.array(z.string()),
      status: z.int().nullable(),
      ms: z.int(),
      output: z.string(),
    }),
  ),
});
export type ImageDetails = z.infer<typeof imageDetails>;

export const newImage = z.strictObject({ recipe: name });
export const imageFormat = z.enum(imageFormats);
export const importedImage = z.strictObject({
  name,
  format: imageFormat,
  /** In hex; when given, nothing reads the bytes before they are all there and it is right. */
  sha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .optional(),
});
export const exportedImage = z.strictObject({ format: imageFormat });
