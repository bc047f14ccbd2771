/**
 * What a kind of machine can do. A driver is a folder under drivers/ with the same parts everywhere (spec,
 * validate, start, stop, observe, test) and one line in drivers/table.ts; the service above knows only this.
 *
 * Every step may be repeated after a kill -9: `prepare` and `start` finish what an earlier try began, `remove`
 * succeeds when there is nothing left. No step may leave a second copy of a running machine.
 */
import { CarrelError } from '#base/errors.ts';
import type { Image } from '#images/layout.ts';
import type {
  DriverName,
  Inspection,
  Limits,
  ProgramEnd,
  RunReply,
  RunRequest,
  Stats,
} from '#contract/schemas/machines.ts';
import type { TemplateDriver } from './templates/driver.ts';

/** What not every driver has. A missing one is refused with `driver_unsupported`, before anything is touched. */
export const capabilities = [
  'pause',
  'run',
  'exec',
  'console',
  'files',
  'stats',
  'snapshot',
  'clone',
  'password',
  'inspect',
] as const;
export type Capability = (typeof capabilities)[number];

/** What is known of a machine before there is one. */
export interface MachineRequest {
  readonly name: string;
  readonly limits: Limits;
}

/** A machine as a driver sees it: facts, no database. */
export interface MachineSpec {
  readonly id: string;
  /** Host name inside. */
  readonly name: string;
  /** Machines with the same one may reach each other. */
  readonly ownerId: string;
  /** Its own directory: everything that a driver keeps on disk is in it. */
  readonly directory: string;
  readonly image: string;
  readonly limits: Limits;
  /** Which block of 65,536 host user ids is its own. */
  readonly uidSlot: number;
  readonly network: {
    /** Its name in the fabric. */
    readonly name: string;
    readonly address: string;
    readonly prefix: number;
    readonly gateway: string;
    readonly mac: string;
    /** What the machine may send and receive, in bytes per second each; null: no limit. */
    readonly bytesPerSecond: number | null;
  };
  /** Public keys that open root's account, each one checked line of authorized_keys(5). */
  readonly sshKeys: readonly string[];
  /** The disk to begin with instead of the image's: another machine's, as it is or as it was in a snapshot. */
  readonly source?: { readonly id: string; readonly directory: string; readonly snapshot: string | null };
}

/** How a machine came to run: what its user may want to know about its speed. */
export interface Runtime {
  /** null: no machine is emulated or virtualized (a container). */
  readonly accelerator: 'kvm' | 'tcg' | null;
  /** `template`: cloned from one that had booted already. */
  readonly startedFrom: 'image' | 'template';
  /** Why it is not faster, in a sentence; null when there is nothing to say. */
  readonly note: string | null;
}

/** Why a machine that ran is not running any more. */
export interface EndReport {
  readonly end: ProgramEnd | null;
  readonly outOfMemory: boolean;
  /** Its process ended in order, but what it ran did not: why, in a sentence. */
  readonly fault?: string | undefined;
}

export interface SnapshotFacts {
  /** What it holds on the host's disk by itself. */
  readonly bytes: number;
}

/** Text that grows at its end and is kept with absolute offsets: first and last MiB. */
export interface Transcript {
  /** Bytes since the start, kept or not. */
  readonly total: number;
  /** The absolute offset of the first byte of `bytes`; later than asked for if those bytes are gone. */
  readonly from: number;
  readonly bytes: Uint8Array;
}

/** A terminal or a program's output that lives in the keeper and goes on without us. */
export interface Terminal {
  /** Reads what is kept from an absolute offset on; at most `maxBytes`. */
  read(from: number, maxBytes?: number): Transcript;
  /** Calls back after output has grown or the program has ended; returns how to stop listening. */
  watch(changed: () => void): () => void;
  write(bytes: Uint8Array): Promise<void>;
  resize(size: TerminalSize): Promise<void>;
  /** Set once the program has ended. */
  readonly end: ProgramEnd | undefined;
  close(): void;
}

export interface TerminalSize {
  readonly rows: number;
  readonly columns: number;
}

export interface ExecRequest {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly user: string;
  readonly tty: TerminalSize | null;
}

export interface FileRead {
  readonly bytes: Uint8Array;
  /** Permission bits. */
  readonly mode: number;
}

/** A machine whose processes exist. Letting go of this object (`release`) does not end the machine. */
export interface RunningMachine {
  /** Its first process as the host sees it. */
  readonly process: { readonly pid: number; readonly startTime: string };
  readonly runtime: Runtime;
  /** Resolves when its first process has ended, whoever ended it. */
  readonly ended: Promise<EndReport>;
  /** Orderly, then power off after the grace time; resolves when no process is left. */
  stop(options: { graceMs: number }): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Does it run, or is it frozen? Asked after adoption. */
  isPaused(): boolean;
  /** Has it stopped by itself, because something that it wrote found no room on the host? `resume` lets it try again. */
  isStalled(): Promise<boolean>;
  /** READY means that a command was answered. */
  ready(options: { limitMs: number }): Promise<void>;
  run(request: RunRequest, options?: { signal?: AbortSignal }): Promise<RunReply>;
  /** Starts a program that outlives its caller; `id` names it in the machine's directory. */
  exec(id: string, request: ExecRequest): Promise<void>;
  console(): Promise<Terminal>;
  readFile(path: string, options: { maxBytes: number }): Promise<FileRead>;
  writeFile(path: string, bytes: Uint8Array, options: { mode: number }): Promise<void>;
  /** Gives root a new random password, and returns it: it is kept nowhere that a user can read. */
  resetPassword(): Promise<string>;
  stats(): Promise<Stats>;
  release(): void;
}

/** What a machine is to run next. */
export interface PlacedRun {
  /** Makes it what the machine starts with. The caller holds the machine's lock, and the machine does not run. */
  place(): Promise<void>;
  /** What has come of it, when that has ended. */
  reply(ended: EndReport): Promise<RunReply>;
}

/** Of a driver whose machines run nothing but what they were told before they started: there a run is a start. */
export interface RunByStart {
  /** Has a machine of this image something to run as it is? Else it is made without being started. */
  hasOwn(image: Image): boolean;
  /** Makes ready what is asked for, and refuses what cannot be run. The machine itself is not changed by it. */
  make(spec: MachineSpec, request: RunRequest, options?: { signal?: AbortSignal }): Promise<PlacedRun>;
}

/** What every driver calls the console among the kept programs: its record outlives the machine's run. */
export const consoleName = 'console';

export interface Driver {
  readonly name: DriverName;
  readonly capabilities: Readonly<Record<Capability, boolean>>;
  /** Where machines can start from one that has booted already. */
  readonly templates?: TemplateDriver;
  /** What can be refused at once is refused here: the kind of image, limits that this host cannot keep. */
  validate(request: MachineRequest, image: Image): Promise<void>;
  /** The disk. `starting`: `start` comes next, and may make it instead. */
  prepare(spec: MachineSpec, options?: { readonly starting?: boolean }): Promise<void>;
  /** Processes and network link. Adopts the machine instead when it runs already. */
  start(spec: MachineSpec): Promise<RunningMachine>;
  /** The machine if it runs; never starts anything. Throws `machine_lost` when that cannot be known. */
  adopt(spec: MachineSpec): Promise<RunningMachine | undefined>;
  /** How its last run ended, for a machine that does not run; end is null when nobody wrote it down. */
  lastEnd(spec: Pick<MachineSpec, 'id' | 'directory'>): EndReport;
  /** In place of a running machine's `run`. */
  readonly runByStart?: RunByStart;
  /** In place of a running machine's files: they are reached in every state. */
  readonly files?: {
    read(spec: MachineSpec, path: string, options: { maxBytes: number }): Promise<FileRead>;
    write(spec: MachineSpec, path: string, bytes: Uint8Array, options: { mode: number }): Promise<void>;
  };
  /** What its last run was, in its own words; only where `inspect` is among the capabilities. */
  inspect?(spec: Pick<MachineSpec, 'directory' | 'name'>): Promise<Inspection>;
  /** Ends whatever of it runs by force, also when `adopt` cannot reach it. */
  kill(spec: Pick<MachineSpec, 'id' | 'directory'>): Promise<void>;
  /** What a machine without processes leaves behind (link, cgroup, loop device); the disk stays. */
  tidy(spec: MachineSpec): Promise<void>;
  /** Everything, disk included; the machine is not running. */
  remove(spec: MachineSpec): Promise<void>;
  /** The disk as it is now, under this name; of a running machine with what was written until now, or as after a power cut. Repeatable. */
  snapshot(spec: MachineSpec, snapshot: string, running: RunningMachine | undefined): Promise<SnapshotFacts>;
  /** The disk as it was; the machine is stopped. The snapshot stays. Repeatable. */
  restore(spec: MachineSpec, snapshot: string): Promise<void>;
  /**
   * A file on the disk of a machine that is off, read by our own code: nobody inside has a word in it. Missing where
   * disks cannot be read like that. `wrong_state`: it runs, or was not shut down in order.
   */
  readDisk?(
    spec: Pick<MachineSpec, 'name' | 'directory' | 'image'>,
    path: string,
    options: { maxBytes: number },
  ): Promise<FileRead>;
  /** Forgets a snapshot; nothing happens if there is none. */
  dropSnapshot(spec: MachineSpec, snapshot: string, running: RunningMachine | undefined): Promise<void>;
  /** A program started by `exec`: its output is there as long as the directory. */
  openExec(spec: Pick<MachineSpec, 'id' | 'directory'>, execId: string): Promise<Terminal>;
  /** Throws away what is kept of a program that has ended. */
  dropExec(spec: Pick<MachineSpec, 'id' | 'directory'>, execId: string): Promise<void>;
  /** Ids of machines of which something exists on this host (directories, cgroups, links), with or without a row. */
  traces(): Promise<ReadonlySet<string>>;
  /** Removes what `traces` found of a machine that has no row. */
  sweep(id: string): Promise<void>;
  /** Breaks off what goes on in the background; machines are left as they are. */
  close?(): Promise<void>;
}

/** Refuses what the driver cannot do. */
export function requireCapability(driver: Driver, capability: Capability): void {
  if (!driver.capabilities[capability]) throw unsupported(driver.name, capability);
}

/** What a driver answers that is asked for what it has not. */
export function unsupported(driver: DriverName, capability: Capability): CarrelError {
  return new CarrelError('driver_unsupported', `machines of kind ${driver} do not offer ${capability}`, {
    details: { driver, capability },
  });
}
