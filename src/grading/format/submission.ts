/** Is this what the lab asks for? Pure: a list of paths and sizes in, sentences out. */
import { CarrelError } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import { isSafePath } from './fields.ts';
import { matchesPattern } from './patterns.ts';
import type { SubmitFields } from './schema.ts';

export interface SubmittedFile {
  /** Relative to the submission, with slashes. */
  readonly path: string;
  readonly bytes: number;
}

function problemOf(file: SubmittedFile, { files }: SubmitFields): string | undefined {
  const { path, bytes } = file;
  if (!isSafePath(path)) return `${JSON.stringify(path.slice(0, 100))} is no plain relative path`;
  const rules = files.filter(({ pattern }) => matchesPattern(pattern, path));
  if (rules.length === 0)
    return `${path} is not asked for (asked for: ${files.map((it) => it.pattern).join(', ')})`;
  const max = Math.max(...rules.map((rule) => rule.maxSize));
  return bytes > max ? `${path} has ${formatSize(bytes)}, more than ${formatSize(max)}` : undefined;
}

/** Everything wrong with a set of files; nothing if it can be graded. */
export function submissionProblems(submit: SubmitFields, files: readonly SubmittedFile[]): string[] {
  if (files.length > submit.maxFiles) return [`${files.length} files, more than ${submit.maxFiles}`];
  const problems = files.flatMap((file) => problemOf(file, submit) ?? []);
  const paths = new Set(files.map((file) => file.path));
  if (paths.size < files.length) problems.push('a path occurs twice');
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  if (total > submit.totalSize)
    problems.push(`${formatSize(total)} in all, more than ${formatSize(submit.totalSize)}`);
  for (const { pattern, required } of submit.files)
    if (required && !files.some(({ path }) => matchesPattern(pattern, path)))
      problems.push(`${pattern} is missing`);
  return problems;
}

/**
 * Refuses a submission that cannot be graded, with all reasons at once.
 *
 * @example acceptSubmission(lab.submit, [{ path: 'reach_number.py', bytes: 300 }]);
 */
export function acceptSubmission(submit: SubmitFields, files: readonly SubmittedFile[]): void {
  const problems = submissionProblems(submit, files);
  if (problems.length === 0) return;
  throw new CarrelError(
    'validation_failed',
    `The submission cannot be accepted: ${problems.slice(0, 10).join('; ')}`,
    {
      hint: 'hand in the files that the lab asks for, and only those',
      details: { problems: problems.slice(0, 100) },
    },
  );
}
