/** Jobs. */
import { jobState, type Job } from '#contract/schemas/jobs.ts';
import type { Action } from '../spec.ts';
import { describeJob, waitForJob } from '../waiting.ts';

export const jobList: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const state = jobState.optional().parse(args.option('state'));
  const kind = args.option('kind');
  const parent = args.option('parent');
  const { items } = await client.listJobs({
    params: {},
    query: {
      limit: args.number('limit') ?? 50,
      ...(state && { state }),
      ...(kind !== undefined && { kind }),
      ...(parent !== undefined && { parent }),
    },
  });
  out.table(
    items,
    [
      { head: 'ID', cell: (job) => job.id },
      { head: 'KIND', cell: (job) => job.kind },
      { head: 'STATE', cell: (job) => job.state, paint: out.state },
      { head: 'BY', cell: (job) => job.requester },
      { head: 'CREATED', cell: (job) => job.createdAt },
      { head: 'WHAT', cell: (job) => job.error?.message ?? job.progress?.what ?? job.step },
    ],
    'no jobs',
  );
  return undefined;
};

export const jobShow: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const job = await client.getJob({ params: { job: args.word('job') } });
  out.result(job, () => {
    const lines = [`${out.paint('bold', job.id)}  ${describeJob(job)} (${out.state(job.state)})`];
    if (job.progress) lines.push(`progress   ${job.progress.done} of ${job.progress.total}`);
    if (job.error)
      lines.push(
        `error      ${job.error.message}`,
        ...(job.error.hint ? [`           ${job.error.hint}`] : []),
      );
    if (job.children.total > 0)
      lines.push(
        `children   ${job.children.total}, done ${job.children.done}, failed ${job.children.failed}`,
      );
    lines.push(`by         ${job.requester ?? 'Carrel'}, attempts ${job.attempts}`);
    lines.push(`created    ${job.createdAt}`, `finished   ${job.finishedAt ?? 'not yet'}`);
    if (job.resources.length > 0) lines.push(`about      ${job.resources.join(', ')}`);
    if (job.requestId !== null) lines.push(`request    ${job.requestId}`);
    for (const [index, { name, at }] of job.steps.entries())
      lines.push(`${index === 0 ? 'steps' : '     '}      ${at}  ${name}`);
    return lines.join('\n');
  });
  return undefined;
};

export const jobWait: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const ended: Job[] = [];
  for (const id of args.words('jobs')) ended.push(await waitForJob(client, out, id));
  out.result(ended, () => ended.map((job) => `${job.id}  ${job.kind}: ${job.state}`).join('\n'));
  return undefined;
};

export const jobCancel: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const job = await client.cancelJob({ params: { job: args.word('job') } });
  out.result(
    job,
    () => `${job.id}: ${job.state === 'cancelled' ? 'cancelled' : `${job.state}, asked to end`}`,
  );
  return undefined;
};

export const jobLog: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const { lines } = await client.getJobLog({ params: { job: args.word('job') } });
  out.result(lines, () => lines.map(({ at, line }) => `${at}  ${line}`).join('\n'));
  return undefined;
};
