/**
 * Steps of a recipe that are run in the machine itself, booted from the disk that was just made. This floor knows no
 * machines: who builds gives the function that runs one. What the steps said stays beside the image, in online.json.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { writeFileAtomic } from '#host/files.ts';
import { bootNames, contentNames } from '../layout.ts';
import type { RecipeStep } from '../recipe.ts';

export type OnlineStep = Pick<Extract<RecipeStep, { do: 'online' }>, 'argv' | 'seconds'>;

export interface OnlineReport {
  /** Exit status; null: it did not exit by itself, see `end`. */
  readonly status: number | null;
  /** How it ended, to be read after its name: "ended with 1", "was ended after 60 s". */
  readonly end: string;
  /** What it wrote, errors among it; of much the beginning and the end are kept. */
  readonly output: string;
  readonly ms: number;
}

export interface OnlineRequest {
  /** qcow2; the machine writes it. */
  readonly disk: string;
  readonly kernel: string;
  readonly initrd: string;
  /** The guest's /sbin/carrel-init then starts the agent and a shell of root at the console, and nothing else. */
  readonly append: string;
  /** Is the agent in it? Else the steps are typed at its console. */
  readonly agent: boolean;
  readonly steps: readonly OnlineStep[];
  /** Called with each step that has ended. */
  readonly onReport?: ((report: OnlineReport, step: OnlineStep) => void) | undefined;
  readonly signal: AbortSignal | undefined;
}

/**
 * Boots the machine, runs the steps one after the other until one fails, and switches the machine off in order: what
 * they wrote must be on the disk when it returns. One report per step that was run.
 */
export type OnlineRunner = (request: OnlineRequest) => Promise<readonly OnlineReport[]>;

/** On the kernel's command line: a machine that is still being made. */
const mark = 'carrel.online';
const recordName = 'online.json';
/** Of the beginning, and of the end, of what a step wrote. */
const keptOutput = 32 * 2 ** 10;

const record = z.array(
  z.strictObject({
    argv: z.array(z.string()),
    status: z.int().nullable(),
    ms: z.int().nonnegative(),
    output: z.string(),
  }),
);

/** What a step said when its image was made. */
export type OnlineRecord = z.output<typeof record>[number];

/** Of the image in this directory; nothing when its recipe has no such steps. */
export async function readOnlineRecord(directory: string): Promise<OnlineRecord[]> {
  try {
    return record.parse(JSON.parse(await readFile(join(directory, recordName), 'utf8')));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

function shortened(output: string): string {
  const cut = output.length - 2 * keptOutput;
  if (cut <= 0) return output;
  return `${output.slice(0, keptOutput)}\n[${cut} characters are not kept]\n${output.slice(-keptOutput)}`;
}

/** The steps of a recipe for a running machine; `host_unsupported` when there are some and nobody to run them. */
export function onlineSteps(steps: readonly RecipeStep[], runner: OnlineRunner | undefined): OnlineStep[] {
  const online = steps.filter((step) => step.do === 'online');
  if (online.length > 0 && !runner)
    throw new CarrelError(
      'host_unsupported',
      'this recipe has online steps, and no machine can be started here',
      {
        hint: 'build it in a cloud: carrel up, then carrel image build',
      },
    );
  return online.map(({ argv, seconds }) => ({ argv, seconds }));
}

/** Runs the steps in the disk in `staged`, and writes online.json there. The first step that fails, fails the build. */
export async function runOnline(
  runner: OnlineRunner,
  staged: string,
  { append, ...request }: Omit<OnlineRequest, 'disk' | 'kernel' | 'initrd'>,
): Promise<void> {
  const { steps } = request;
  const reports = await runner({
    disk: join(staged, contentNames.disk),
    kernel: join(staged, bootNames.kernel),
    initrd: join(staged, bootNames.initrd),
    append: `${append} ${mark}`,
    ...request,
  });
  const said = reports.map(({ status, output, ms }, index): OnlineRecord => ({
    argv: steps[index]?.argv ?? [],
    status,
    ms: Math.round(ms),
    output: shortened(output),
  }));
  await writeFileAtomic(join(staged, recordName), `${JSON.stringify(said, null, 2)}\n`);
  const at = reports.findIndex(({ status }) => status !== 0);
  const failed = reports[at];
  if (failed)
    // a program that ended by itself would do so again: the build is not worth repeating
    throw new CarrelError(
      failed.status === null ? 'helper_failed' : 'validation_failed',
      `in the machine, ${nameOf(steps[at])} ${failed.end}`,
      {
        hint: 'what it wrote is in the log of the job',
        details: { output: failed.output.slice(-maxDetail) },
      },
    );
  if (said.length !== steps.length)
    throw new CarrelError('helper_failed', `the machine ended after ${said.length} of ${steps.length} steps`);
}

/** Of a failed step's output, with the error. */
const maxDetail = 4000;

const nameOf = (step: OnlineStep | undefined): string => (step?.argv ?? []).join(' ').slice(0, 200);
