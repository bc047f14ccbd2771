/**
 * Steps of a recipe that are run in the machine itself, booted from the disk that was just made. This floor knows no
 * machines: who builds gives the function that runs one. What the steps said stays beside the image, in online.json.
 */
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import { writeFileAtomic } from '#host/files.ts';
import { bootNames, contentNames } from '../layout.ts';
import type { RecipeStep } from '../recipe.ts';

export type OnlineStep = Pick<Extract<RecipeStep, { do: 'online' }>, 'argv' | 'seconds'>;

export interface OnlineReport {
  /** Exit status; null: it was ended at its time limit, or by a signal. */
  readonly status: number | null;
  /** What it wrote; the beginning and the end of much. */
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
  readonly steps: readonly OnlineStep[];
  readonly signal: AbortSignal | undefined;
}

/**
 * Boots the machine, runs the steps one after the other until one fails, and switches the machine off in order: what
 * they wrote must be on the disk when it returns. One report per step that was run.
 */
export type OnlineRunner = (request: OnlineRequest) => Promise<readonly OnlineReport[]>;

/** On the kernel's command line: a machine that is still being made. */
const mark = 'carrel.online';
const maxOutput = 64 * 2 ** 10;

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
  { steps, append, signal }: Pick<OnlineRequest, 'steps' | 'append' | 'signal'>,
): Promise<void> {
  const reports = await runner({
    disk: join(staged, contentNames.disk),
    kernel: join(staged, bootNames.kernel),
    initrd: join(staged, bootNames.initrd),
    append: `${append} ${mark}`,
    steps,
    signal,
  });
  const said = reports.map(({ status, output, ms }, index) => ({
    argv: steps[index]?.argv ?? [],
    status,
    ms: Math.round(ms),
    output: output.slice(-maxOutput),
  }));
  await writeFileAtomic(join(staged, 'online.json'), `${JSON.stringify(said, null, 2)}\n`);
  const failed = said.find(({ status }) => status !== 0);
  if (failed)
    throw new CarrelError(
      'helper_failed',
      `in the machine, ${failed.argv.join(' ')} ended with ${failed.status ?? 'its time'}`,
      {
        details: failed,
      },
    );
  if (said.length !== steps.length)
    throw new CarrelError('helper_failed', `the machine ended after ${said.length} of ${steps.length} steps`);
}
