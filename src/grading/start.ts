/** Prepares a fresh machine: places files, runs commands, waits. What the student's commands do is not judged here. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, isCarrelError, messageOf } from '#base/errors.ts';
import { sleep } from '#base/deadline.ts';
import { formatDuration } from '#base/units.ts';
import { type RunReply, runRequest } from '#contract/schemas/machines.ts';
import { type CheckContext, readTest } from './context.ts';
import type { LabFolder } from './format/folder.ts';
import { matchesPattern } from './format/patterns.ts';
import type { StartStep } from './format/schema.ts';
import type { FreshMachine } from './machine.ts';
import { untilAtRest, watchRest } from '#machines/rest.ts';

/** What the commands printed, for the student. */
export interface StartOutput {
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
}

/** The part of a grading's context that is needed here. */
export interface StartContext extends Pick<CheckContext, 'submission' | 'files' | 'signal'> {
  readonly folder: Pick<LabFolder, 'directory' | 'tests'>;
}

const keptBytes = 65_536;

/** Does what is asked of the machine; undefined: it would not, which is its state, and noted. Else see `startMachine`. */
type Attempt = <T>(work: () => Promise<T>, isItsState: typeof isSilence) => Promise<T | undefined>;

async function place(
  context: StartContext,
  machine: FreshMachine,
  step: NonNullable<StartStep['place']>,
  attempt: Attempt,
): Promise<void> {
  const mode = Number.parseInt(step.mode, 8);
  const put = async (path: string, bytes: Uint8Array): Promise<void> => {
    const to = step.to.endsWith('/') ? `${step.to}${path.split('/').at(-1) ?? path}` : step.to;
    await attempt(() => machine.writeFile(to, bytes, { mode }), isAnswer);
  };
  const { submitted, test } = step;
  try {
    if (test !== undefined) await put(test, await readTest(context, test));
    if (submitted === undefined) return;
    for (const { path } of context.files.filter((file) => matchesPattern(submitted, file.path)))
      await put(path, await readFile(join(context.submission, path)));
  } catch (cause) {
    // a path of lab.yaml that the image does not have is the author's to mend
    if (isCarrelError(cause, 'not_found') || isCarrelError(cause, 'invalid_request'))
      throw new CarrelError('lab_invalid', `cannot place a file at ${step.to}: ${cause.message}`, { cause });
    throw cause;
  }
}

/** Takes the steps in order. An exit status other than 0 is no fault: the checks see what is there. */
export async function startMachine(
  context: StartContext,
  machine: FreshMachine,
  steps: readonly StartStep[],
): Promise<StartOutput> {
  const output: { stdout: Uint8Array[]; stderr: Uint8Array[] } = { stdout: [], stderr: [] };
  const note = (text: string): void => void output.stderr.push(Buffer.from(`[${text}]\n`));
  /** Something of the student's may have run. */
  let changed = false;
  const attempt: Attempt = async (work, isItsState) => {
    try {
      return await work();
    } catch (error) {
      context.signal.throwIfAborted();
      if (!changed || !isItsState(machine, error)) throw error;
      note(`a step could not be taken: ${messageOf(error)}`);
      return undefined;
    }
  };
  let booting = machine.driver === 'qemu' && machine.startedFrom === 'image';
  for (const step of steps) {
    context.signal.throwIfAborted();
    changed ||= step.run !== undefined || step.restart !== undefined;
    if (step.place) await place(context, machine, step.place, attempt);
    if (step.wait !== undefined) await sleep(step.wait, context.signal);
    if (step.restart !== undefined) {
      booting = true;
      const { restart: limitMs } = step;
      await attempt(() => restart(context, machine, limitMs, note), isSilence);
    }
    if (!step.run) continue;
    // the first to answer in one that boots is the agent: what the machine does by itself comes first
    if (machine.driver === 'qemu' && booting)
      await attempt(() => untilAtRest(watchRest(machine), context.signal), isSilence);
    booting = false;
    const { run: command } = step;
    const reply = await attempt(() => run(context, machine, command), isAnswer);
    if (!reply) continue;
    output.stdout.push(Buffer.from(reply.stdout, 'base64'));
    output.stderr.push(Buffer.from(reply.stderr, 'base64'));
    if (reply.end.kind === 'killed') note(`${command.argv.join(' ')}: stopped, ${reply.end.reason} limit`);
  }
  return { stdout: Buffer.concat(output.stdout), stderr: Buffer.concat(output.stderr) };
}

function run(
  { signal }: StartContext,
  machine: FreshMachine,
  { argv, timeLimit }: NonNullable<StartStep['run']>,
): Promise<RunReply> {
  const request = runRequest.parse({ argv, limitMs: timeLimit, outputBytes: keptBytes, cwd: '/' });
  return machine.run(request, { signal });
}

async function restart(
  { signal }: StartContext,
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

/** The same of what an agent says instead: that its disk is full, or that a program is not there, or anything. */
function isAnswer(machine: FreshMachine, error: unknown): boolean {
  return machine.driver === 'qemu' && isCarrelError(error) && machine.power() !== 'lost';
}
