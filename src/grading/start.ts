/** Prepares a fresh machine: places files, runs commands, waits. What the student's commands do is not judged here. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { sleep } from '#base/deadline.ts';
import { formatDuration } from '#base/units.ts';
import { type RunReply, runRequest } from '#contract/schemas/machines.ts';
import { type CheckContext, readTest } from './context.ts';
import { matchesPattern } from './format/patterns.ts';
import type { StartStep } from './format/schema.ts';
import type { FreshMachine } from './machine.ts';
import { untilAtRest, watchRest } from './rest.ts';

/** What the commands printed, for the student. */
export interface StartOutput {
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
}

const keptBytes = 65_536;

async function place(
  context: CheckContext,
  machine: FreshMachine,
  step: NonNullable<StartStep['place']>,
): Promise<void> {
  const mode = Number.parseInt(step.mode, 8);
  const target = (path: string): string =>
    step.to.endsWith('/') ? `${step.to}${path.split('/').at(-1) ?? path}` : step.to;
  const { submitted, test } = step;
  try {
    if (test !== undefined) await machine.writeFile(target(test), await readTest(context, test), { mode });
    if (submitted === undefined) return;
    for (const { path } of context.files.filter((file) => matchesPattern(submitted, file.path)))
      await machine.writeFile(target(path), await readFile(join(context.submission, path)), { mode });
  } catch (cause) {
    // a path of lab.yaml that the image does not have is the author's to mend
    if (isCarrelError(cause, 'not_found') || isCarrelError(cause, 'invalid_request'))
      throw new CarrelError('lab_invalid', `cannot place a file at ${step.to}: ${cause.message}`, { cause });
    throw cause;
  }
}

/** Takes the steps in order. An exit status other than 0 is no fault: the checks see what is there. */
export async function startMachine(
  context: CheckContext,
  machine: FreshMachine,
  steps: readonly StartStep[],
): Promise<StartOutput> {
  const output: { stdout: Uint8Array[]; stderr: Uint8Array[] } = { stdout: [], stderr: [] };
  const note = (text: string): void => void output.stderr.push(Buffer.from(`[${text}]\n`));
  /** Something of the student's may have run. */
  let changed = false;
  let booting = machine.driver === 'qemu' && machine.startedFrom === 'image';
  for (const step of steps) {
    context.signal.throwIfAborted();
    changed ||= step.run !== undefined || step.restart !== undefined;
    try {
      if (step.place) await place(context, machine, step.place);
      if (step.wait !== undefined) await sleep(step.wait, context.signal);
      if (step.restart !== undefined) {
        booting = true;
        await restart(context, machine, step.restart, note);
      }
      if (!step.run) continue;
      // the first to answer in one that boots is the agent: what the machine does by itself comes first
      if (machine.driver === 'qemu' && booting) await untilAtRest(watchRest(machine), context.signal);
      booting = false;
      const { stdout, stderr, end } = await run(context, machine, step.run);
      output.stdout.push(Buffer.from(stdout, 'base64'));
      output.stderr.push(Buffer.from(stderr, 'base64'));
      if (end.kind === 'killed') note(`${step.run.argv.join(' ')}: stopped, ${end.reason} limit`);
    } catch (error) {
      if (!changed || !isSilence(machine, error)) throw error;
      note(`a step could not be taken: ${messageOf(error)}`);
    }
  }
  return { stdout: Buffer.concat(output.stdout), stderr: Buffer.concat(output.stderr) };
}

function run(
  { signal }: CheckContext,
  machine: FreshMachine,
  { argv, timeLimit }: NonNullable<StartStep['run']>,
): Promise<RunReply> {
  const request = runRequest.parse({ argv, limitMs: timeLimit, outputBytes: keptBytes, cwd: '/' });
  return machine.run(request, { signal });
}

async function restart(
  { signal }: CheckContext,
  machine: FreshMachine,
  limitMs: number,
  note: (text: string) => void,
): Promise<void> {
  if (machine.driver !== 'qemu') throw new CarrelError('internal', 'a container was to be restarted');
  if (!(await machine.restart({ limitMs, signal })))
    note(`after the restart the machine did not answer within ${formatDuration(limitMs)}`);
}

/**
 * Inside a virtual machine an agent does what we ask, and its root can end it, or hang the machine. Once something of the
 * student's has run, silence is his machine's state, which the checks look at from outside; before, it is our fault.
 */
function isSilence(machine: FreshMachine, error: unknown): boolean {
  if (machine.driver !== 'qemu' || !isCarrelError(error)) return false;
  return ['machine_lost', 'deadline_exceeded'].includes(error.code) && machine.power() !== 'lost';
}
