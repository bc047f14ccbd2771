/**
 * The fabric's network namespace: made, or entered again.
 *
 * Nothing is mounted: a namespace lives as long as a process is in it. The first one is the *holder*, a
 * process that does nothing and outlives the doorman; DIR/run/fabric.json says who it is. Who reads the file
 * trusts it only if that very process (pid and start time) is alive and still in the namespace recorded.
 */
import { existsSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { until } from '#base/deadline.ts';
import { writeFileAtomicSync } from '#host/files.ts';
import { type Argv, launchService } from '#host/launch.ts';
import { type ProcessIdentity, endProcess, isAlive } from '#host/processes.ts';
import { netnsCookie, netnsOf } from './netns.ts';

const recordSchema = z.strictObject({
  pid: z.int().positive(),
  startTime: z.string().regex(/^\d+$/),
  /** The namespace's name, once the holder is in it. */
  netns: z.string().optional(),
  /** A name is used again after its namespace's end; this is not. */
  cookie: z.string().optional(),
  /** Made without root: the network namespace belongs to a user namespace. */
  rootless: z.boolean(),
});

type Record = z.infer<typeof recordSchema>;

export interface FabricNamespace {
  readonly holder: ProcessIdentity;
  /** For example `net:[4026532177]`. */
  readonly netns: string;
  readonly rootless: boolean;
  /** True when it was there already. */
  readonly reentered: boolean;
  /**
   * The command that runs `argv` inside; the process that results is `argv` itself. With `netnsFd`, a descriptor
   * of ours for the namespace, it works even after the holder's death.
   */
  inside(argv: Argv, netnsFd?: number): Argv;
  /** Everybody in it but the holder. */
  inhabitants(): number[];
  /** Ends the holder. The namespace, its links and rules go with the last process in it. */
  end(): Promise<void>;
}

/** A program that does nothing: ours if it is built (`ps` then tells what it is for). */
function idle(): Argv {
  const isolate = join(import.meta.dirname, '../../build/isolate');
  return existsSync(isolate) ? [isolate, '--hold'] : ['sleep', 'infinity'];
}

/** Without root a user namespace comes first, with one id in it: ours, as root. */
function defaultHolder(rootless: boolean): Argv {
  const userNamespace = rootless ? ['--user', '--map-root-user'] : [];
  return ['unshare', ...userNamespace, '--net', '--', ...idle()];
}

function read(path: string): Record | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const parsed = recordSchema.safeParse(JSON.parse(text));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined; // no JSON: as good as no record
  }
}

/** The processes in a network namespace, by looking at all that we may look at. */
export function processesIn(netns: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return netnsOf(pid) === netns;
      } catch {
        return false; // not ours to look at, so not in a namespace of ours
      }
    });
}

/**
 * Enters the fabric that DIR/run/fabric.json names if it still is that one, else makes a new one. A fabric whose
 * holder is dead but in which machines live gets a new holder.
 */
export async function openNamespace({
  runDirectory,
  rootless = process.getuid?.() !== 0,
  holder: holderArgv = defaultHolder(rootless),
}: {
  runDirectory: string;
  rootless?: boolean;
  /** A program that goes into its own network namespace and stays there until it is told to end. */
  holder?: Argv;
}): Promise<FabricNamespace> {
  const path = join(runDirectory, 'fabric.json');
  const known = findNamespace(runDirectory);
  if (known) return known;
  const record = read(path);
  // half made: the one who made it died between the holder's start and its second record
  if (record?.netns === undefined && record && isAlive(record)) await endProcess(record);
  const [survivor] = survivors(runDirectory);
  if (survivor !== undefined) {
    const argv: Argv = ['nsenter', `--net=/proc/${survivor}/ns/net`, '--', ...idle()];
    return describe(await startHolder(argv, { path, rootless }), true, path);
  }
  return describe(await startHolder(holderArgv, { path, rootless }), false, path);
}

/** The fabric that DIR/run/fabric.json names, if its holder still is that one. */
function findNamespace(runDirectory: string): FabricNamespace | undefined {
  const path = join(runDirectory, 'fabric.json');
  const record = read(path);
  if (record?.netns === undefined || !isAlive(record) || netnsOf(record.pid) !== record.netns)
    return undefined;
  return describe({ ...record, netns: record.netns }, true, path);
}

/**
 * The processes in the namespace that DIR/run/fabric.json names, holder or not: told by the cookie, because
 * another namespace may have its name by now.
 */
function survivors(runDirectory: string): number[] {
  const { netns, cookie } = read(join(runDirectory, 'fabric.json')) ?? {};
  if (netns === undefined || cookie === undefined || netns === netnsOf('self')) return [];
  return processesIn(netns).filter((pid) => netnsCookie(pid) === cookie);
}

async function startHolder(
  argv: Argv,
  { path, rootless }: { path: string; rootless: boolean },
): Promise<Record & { netns: string }> {
  const { identity } = await launchService(argv, { outlives: true });
  const half: Record = { ...identity, rootless };
  try {
    // as soon as it exists: a holder nobody knows of would stay for ever
    writeFileAtomicSync(path, JSON.stringify(half));
    const ours = netnsOf('self');
    const netns = await until(5000, 'the fabric to be made', () => {
      if (!isAlive(identity))
        throw new CarrelError('host_unsupported', `The fabric cannot be made: ${argv.join(' ')} ended`, {
          hint: 'see: carrel doctor',
        });
      const theirs = netnsOf(identity.pid);
      return theirs === ours ? undefined : theirs;
    });
    const cookie = netnsCookie(identity.pid);
    const whole = { ...half, netns, ...(cookie === undefined ? {} : { cookie }) };
    writeFileAtomicSync(path, JSON.stringify(whole));
    return whole;
  } catch (error) {
    await endProcess(identity, { graceMs: 0 });
    rmSync(path, { force: true });
    throw error;
  }
}

function describe(record: Record & { netns: string }, reentered: boolean, path: string): FabricNamespace {
  const { pid, startTime, netns, rootless } = record;
  const holder = { pid, startTime };
  const user = rootless ? [`--user=/proc/${pid}/ns/user`, '--preserve-credentials'] : [];
  return {
    holder,
    netns,
    rootless,
    reentered,
    inside: (argv, netnsFd) => {
      const net = netnsFd === undefined ? `/proc/${pid}/ns/net` : `/proc/${process.pid}/fd/${netnsFd}`;
      return ['nsenter', ...user, `--net=${net}`, '--', ...argv];
    },
    inhabitants: () => processesIn(netns).filter((inhabitant) => inhabitant !== pid),
    async end() {
      await endProcess(holder, { graceMs: 500 });
      rmSync(path, { force: true });
    },
  };
}
