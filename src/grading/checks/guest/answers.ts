/**
 * Answers to questions about a machine, compared with what that machine is, here and now: nothing is written down but
 * the questions. The right answer is not told: the student has a machine of his own to ask.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { isCarrelError } from '#base/errors.ts';
import type { CheckContext } from '../../context.ts';
import { maxYamlBytes, parseYaml } from '../../format/document.ts';
import type { AnswersSpec } from '../../format/guest.ts';
import type { Limits } from '../../format/limits.ts';
import { type Answer, answerProblem } from '../../judge/answers.ts';
import { failed, noVerdict, type Outcome, passed, scored, usageOf } from '../../judge/outcome.ts';
import { oneLine } from '../../judge/text.ts';
import { printedBy } from './guest.ts';
import { runGuest } from './machine.ts';

const answers = z.record(
  z.string().max(100),
  z.union([z.string().max(1000), z.number(), z.bigint(), z.boolean(), z.null()]),
);

/** The student's file, or what is wrong with it. */
async function readAnswers(
  { submission, files }: CheckContext,
  file: string,
): Promise<{ readonly given: Readonly<Record<string, Answer>> } | Outcome> {
  const size = files.find(({ path }) => path === file)?.bytes;
  if (size === undefined) return failed(`${file} was not handed in`);
  if (size > maxYamlBytes) return failed(`${file} is too large`);
  const text = await readFile(join(submission, file), 'utf8');
  try {
    return { given: parseYaml(file, text, answers).value };
  } catch (error) {
    if (!isCarrelError(error, 'lab_invalid')) throw error;
    return failed(oneLine(error.message));
  }
}

export async function checkAnswers(
  context: CheckContext,
  { file, guest, questions }: AnswersSpec,
  limits: Limits,
): Promise<Outcome> {
  const read = await readAnswers(context, file);
  if ('verdict' in read) return read;
  const ran = await runGuest(context, guest, limits);
  if ('verdict' in ran) return ran;
  if ('refused' in ran) return failed(`the guest cannot be run: ${ran.refused}`);
  const { facts } = ran.report;
  const seen = { stdout: printedBy(ran), usage: usageOf(ran.process) };
  const problems: string[] = [];
  for (const [key, name] of Object.entries(questions)) {
    const fact = facts[name];
    if (fact === undefined)
      return {
        ...noVerdict(`a machine in ${guest.mode} mode has no ${name} to compare ${key} with`),
        ...seen,
      };
    const answer = Object.hasOwn(read.given, key) ? read.given[key] : undefined;
    const problem = answerProblem(key, answer, fact);
    if (problem !== undefined) problems.push(problem);
  }
  const total = Object.keys(questions).length;
  const outcome =
    problems.length === 0
      ? passed('as the machine says')
      : scored(1 - problems.length / total, problems.join('; '));
  return { ...outcome, ...seen };
}
