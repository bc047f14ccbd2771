/** Prepares a fresh machine: places files, runs commands, waits. What the student's commands do is not judged here. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { sleep } from '#base/deadline.ts';
import { runRequest } from '#contract/schemas/machines.ts';
import { type CheckContext, readTest } from './context.ts';
import { matchesPattern } from './format/patterns.ts';
import type { StartStep } from './format/schema.ts';
import type { FreshMachine } from './machine.ts';

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
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  for (const step of steps) {
    context.signal.throwIfAborted();
    if (step.place) await place(context, machine, step.place);
    if (step.wait !== undefined) await sleep(step.wait, context.signal);
    if (!step.run) continue;
    const reply = await machine.run(
      runRequest.parse({
        argv: step.run.argv,
        limitMs: step.run.timeLimit,
        outputBytes: keptBytes,
        cwd: '/',
      }),
      { signal: context.signal },
    );
    stdout.push(Buffer.from(reply.stdout, 'base64'));
    stderr.push(Buffer.from(reply.stderr, 'base64'));
    if (reply.end.kind === 'killed')
      stderr.push(Buffer.from(`[${step.run.argv.join(' ')}: stopped, ${reply.end.reason} limit]\n`));
  }
  return { stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr) };
}
