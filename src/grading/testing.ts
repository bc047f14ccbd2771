/** For tests of grading: labs and submissions from texts, in directories that vanish. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { loadLab } from './format/folder.ts';
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
