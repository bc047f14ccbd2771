/** For tests of grading: labs and submissions from texts, in directories that vanish. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { loadLab } from './format/folder.ts';
import type { FreshMachineRequest } from './machine.ts';
import { type GradeResult, type GraderDeps, gradeSubmission } from './run.ts';

export interface TemporaryTree extends AsyncDisposable {
  readonly directory: string;
}

/** Files by path. */
export type Texts = Readonly<Record<string, string | Uint8Array>>;

export async function temporaryTree(files: Texts): Promise<TemporaryTree> {
  const directory = await mkdtemp(join(tmpdir(), 'carrel-test-'));
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), text);
  }
  return { directory, [Symbol.asyncDispose]: () => rm(directory, { recursive: true, force: true }) };
}

/** Grades a submission by a lab, both given as texts. */
export async function gradeTexts(
  grader: GraderDeps,
  lab: Texts,
  submission: Texts,
  options: { parallel?: number; signal?: AbortSignal } = {},
): Promise<GradeResult> {
  await using labTree = await temporaryTree(lab);
  await using submissionTree = await temporaryTree(submission);
  return await gradeSubmission(
    {
      folder: await loadLab(labTree.directory),
      submission: submissionTree.directory,
      submissionId: 'test',
      ...options,
    },
    grader,
  );
}

/** A check's result, in a few words. */
export function summary(result: GradeResult, id: string): string {
  const check = result.checks.find((each) => each.id === id);
  return `${result.verdicts.get(id)} ${check?.points}: ${check?.reason}`;
}

/** A grader in a process of its own, with a machine: to be killed while it has it. */
export interface OtherGrader {
  /** What it said of its machine. */
  readonly said: string;
  /** SIGKILL; resolves when it is gone. */
  kill(): Promise<void>;
}

/** `tell`: JavaScript for what it says of `machine` and itself, `grader`. */
export async function startOtherGrader(
  wanted: Pick<FreshMachineRequest, 'image' | 'driver' | 'limits'>,
  tell: string,
): Promise<OtherGrader> {
  const script = `
    import { openLocalGrader } from ${JSON.stringify(new URL('local.ts', import.meta.url))};
    const grader = await openLocalGrader({ slots: 1 });
    const signal = new AbortController().signal;
    const wanted = { ...${JSON.stringify(wanted)}, submissionId: 's', labels: {}, signal };
    await grader.withFreshMachine(wanted, async (machine) => {
      console.log(${tell});
      await new Promise((resolve) => setTimeout(resolve, 60_000));
    });`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    cwd: join(import.meta.dirname, '../..'),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exit = once(child, 'exit');
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exit;
  };
  try {
    const [line]: unknown[] = await once(child.stdout, 'data', { signal: AbortSignal.timeout(120_000) });
    return { said: String(line).trim(), kill };
  } catch (error) {
    await kill();
    throw error;
  }
}
