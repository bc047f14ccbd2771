/** Handing in. */
import { lstat } from 'node:fs/promises';
import { matchesGlob, resolve } from 'node:path';
import { formatSize } from '#base/units.ts';
import { CarrelError } from '#base/errors.ts';
import type { TarInput } from '#images/archive/tarwriter.ts';
import type { Client } from '#contract/client.ts';
import { chunksOf, collectFiles, pack } from '../archive.ts';
import { findLab } from '../lookup.ts';
import { renderGrade } from '../render-grade.ts';
import type { Action } from '../spec.ts';
import { waitForJob } from '../waiting.ts';

/**
 * The path under which a named file goes in: as named, or without its first folders if only so it is one of the
 * files that the lab asks for. `~/work/lab1/main.c` is `main.c` to a lab that asks for `main.c`.
 */
export function pathInSubmission(path: string, patterns: readonly string[]): string {
  const parts = path.split('/').filter((part) => part !== '' && part !== '.');
  const suffixes = parts.map((_, index) => parts.slice(index).join('/'));
  return suffixes.find((suffix) => patterns.some((pattern) => matchesGlob(suffix, pattern))) ?? path;
}

/** A folder is handed in with its content, a file under the path that the lab knows it by. */
async function gather(named: readonly string[], patterns: readonly string[]): Promise<TarInput[]> {
  const files = new Map<string, TarInput>();
  for (const path of named) {
    const full = resolve(path);
    const isFolder = await lstat(full).then(
      (stats) => stats.isDirectory(),
      () => false,
    );
    for (const file of await collectFiles([full], isFolder ? full : process.cwd())) {
      const inside = isFolder ? file.path : pathInSubmission(path, patterns);
      if (files.has(inside)) throw new CarrelError('invalid_request', `${inside} would be handed in twice`);
      files.set(inside, { ...file, path: inside });
    }
  }
  return [...files.values()];
}

/** Files of a machine, each under the path that the lab knows it by. */
async function gatherInside(
  client: Client,
  machine: string,
  named: readonly string[],
  patterns: readonly string[],
): Promise<TarInput[]> {
  const files: TarInput[] = [];
  for (const path of named) {
    const chunks: Uint8Array[] = [];
    for await (const chunk of chunksOf(await client.readFile({ params: { machine }, query: { path } })))
      chunks.push(chunk);
    const bytes = Buffer.concat(chunks);
    const inside = pathInSubmission(path, patterns);
    if (files.some((file) => file.path === inside))
      throw new CarrelError('invalid_request', `${inside} would be handed in twice`);
    files.push({ path: inside, kind: 'file', mode: 0o644, size: bytes.length, data: [bytes] });
  }
  return files;
}

export const submit: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const lab = await findLab(client, args.word('lab'));
  const patterns = lab.files.map(({ pattern }) => pattern);
  const machine = args.option('machine');
  const files =
    machine === undefined
      ? await gather(args.words('files'), patterns)
      : await gatherInside(client, machine, args.words('files'), patterns);
  const bytes = await pack(files);
  const { submission, job } = await client.submit(
    { params: { lab: lab.id }, bytes },
    { contentType: 'application/x-tar', idempotencyKey: crypto.randomUUID() },
  );
  const receipt = [
    `Handed in: ${submission.id}, attempt ${submission.attempt}, ${submission.submittedAt}${submission.late ? ' (late)' : ''}`,
    `  ${submission.files.length} files, ${formatSize(submission.bytes)}, sha256 ${submission.treeHash}`,
  ].join('\n');
  if (!args.unless('wait')) {
    out.result({ submission, job }, () => `${receipt}\nThe marks: carrel grade show ${submission.id}`);
    return undefined;
  }
  out.note(receipt);
  await waitForJob(client, out, job.id);
  const { items } = await client.listGrades({ params: { submission: submission.id } });
  const grade = items.find((candidate) => candidate.current) ?? null;
  out.result({ submission, grade }, () => (grade ? renderGrade(grade, out) : 'no grade yet'));
  return undefined;
};
