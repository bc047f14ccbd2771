/** What the checks of one submission share. */
import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { SandboxReport, SandboxSpec, Sandboxes } from '#isolate/sandbox.ts';
import type { Ran, Refused } from './checks/guest/machine.ts';
import type { Limits } from './format/limits.ts';
import type { LabFolder } from './format/folder.ts';
import type { SubmittedFile } from './format/submission.ts';
import type { Outcome } from './judge/outcome.ts';
import { programPath, requireProgram } from './programs.ts';
import type { RegexGuard } from './judge/regex.ts';

/** What is collected from runs: bounded here as well as in the sandbox. */
export const maxCollected = 16 * 2 ** 20;

export interface CheckContext {
  readonly folder: LabFolder;
  /** The submission's directory on the host; never written to. */
  readonly submission: string;
  readonly files: readonly SubmittedFile[];
  /** A private directory for what is built from this submission. */
  readonly scratch: string;
  /** The root file system of the lab's image. */
  readonly root: string;
  readonly sandboxes: Pick<Sandboxes, 'run'>;
  readonly guard: RegexGuard;
  readonly signal: AbortSignal;
  /** Ends the other checks: a fault makes their results worthless. */
  readonly abort: (reason: unknown) => void;
  /** Files of the build step, placed in the working directory of every run: [host path, path inside]. */
  readonly built: readonly Placed[];
  /** Harness programs made ready, or being made ready, for this submission. */
  readonly programs: Map<string, Promise<Program>>;
  /** Runs of guests that several checks look at, by what makes them the same. */
  readonly guests: Map<string, Promise<Ran | Refused>>;
}

/** Where a harness lies on the host, or why there is none. */
export type Program = { readonly host: string } | Outcome;

export interface Placed {
  readonly host: string;
  /** Relative to the working directory. */
  readonly guest: string;
}

export interface RunRequest {
  readonly argv: readonly string[];
  readonly limits: Limits;
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: Uint8Array;
  readonly inputs?: SandboxSpec['inputs'];
  readonly work: readonly Placed[];
  readonly collect?: SandboxSpec['collect'];
}

/** The environment of every run: nothing of ours in it. */
const environment = {
  PATH: programPath,
  HOME: '/work',
  LANG: 'C.UTF-8',
};

/** One run in a fresh sandbox. Infrastructure faults are thrown, so that they never become a verdict. */
export async function runSandbox(context: CheckContext, request: RunRequest): Promise<SandboxReport> {
  const { argv, limits, env = {}, stdin = new Uint8Array(), inputs = [], work, collect = [] } = request;
  context.signal.throwIfAborted();
  const [program = ''] = argv;
  if (!inputs.some(({ guest }) => guest === program)) await requireProgram(context, program, env);
  return await context.sandboxes.run(
    {
      root: context.root,
      argv: [...argv],
      env: { ...environment, ...env },
      inputs: [...inputs],
      work: work.map(({ host, guest }) => ({ host, guest })),
      stdin,
      result: true,
      collect: [...collect],
      limits: { ...limits },
    },
    { signal: context.signal },
  );
}

/** The submission and what was built from it. */
export function submittedWork({ submission, files, built }: CheckContext): Placed[] {
  const own = new Set(built.map(({ guest }) => guest));
  return [
    ...files
      .filter(({ path }) => !own.has(path))
      .map(({ path }) => ({ host: join(submission, path), guest: path })),
    ...built,
  ];
}

/** A file below tests/; which exist was checked when the lab was loaded. */
export async function readTest(
  { folder }: { readonly folder: Pick<LabFolder, 'directory' | 'tests'> },
  path: string,
): Promise<Uint8Array> {
  if (!folder.tests.has(path)) throw new CarrelError('lab_invalid', `tests/${path} does not exist`);
  return await readFile(join(folder.directory, 'tests', path));
}

/** Files below tests/ to be placed in the working directory. */
export function placedTests(context: CheckContext, files: readonly { from: string; to: string }[]): Placed[] {
  return files.map(({ from, to }) => ({ host: join(context.folder.directory, 'tests', from), guest: to }));
}

/** Later entries replace earlier ones of the same path, so that a test file wins over a submitted one. */
export function overlay(...layers: readonly (readonly Placed[])[]): Placed[] {
  return [...new Map(layers.flat().map((placed) => [placed.guest, placed])).values()];
}

/** One program per key, made at the first call for it. */
export function programOf(
  { programs }: CheckContext,
  key: string,
  make: () => Promise<Program>,
): Promise<Program> {
  const program = programs.get(key) ?? make();
  programs.set(key, program);
  return program;
}

/** Keeps bytes in the scratch directory under a name that is ours, not the submission's. */
export async function keep(
  context: CheckContext,
  name: string,
  bytes: Uint8Array,
  mode = 0o755,
): Promise<string> {
  const path = join(context.scratch, name);
  await writeFile(path, bytes, { mode, flag: 'wx' });
  await chmod(path, mode); // whatever the umask: the sandbox's user is nobody we know
  return path;
}
