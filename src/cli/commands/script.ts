/** `carrel script`: lines run inside a machine. */
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { CarrelError } from '#base/errors.ts';
import { formatDuration } from '#base/units.ts';
import type { Client } from '#contract/client.ts';
import type { Script, ScriptDetail, ScriptLineResult } from '#contract/schemas/scripts.ts';
import { describeEnd, statusOf } from '../program-end.ts';
import type { Action } from '../spec.ts';
import type { Output } from '../ui/output.ts';
import { printable } from '../ui/style.ts';
import { waitForJob } from '../waiting.ts';

/** The lines of a file that are to be run: not the empty ones, and not those that begin with `#`. */
export async function linesOfFile(path: string): Promise<string[]> {
  const all = path === '-' ? await text(process.stdin) : await readFile(path, 'utf8');
  const lines = all.split(/\r?\n/).filter((line) => line.trim() !== '' && !line.startsWith('#'));
  if (lines.length === 0)
    throw new CarrelError('invalid_request', `${path} has no line to run`, {
      hint: 'write one command per line; empty lines and those that begin with # are left out',
    });
  return lines;
}

const endText = ({ end, error, startedAt }: ScriptLineResult): string =>
  end ? (describeEnd(end) ?? String(statusOf(end))) : (error ?? (startedAt ? 'running' : 'not run'));

/** Lines of output below the line that says whose they are. */
export const indented = (output: string): string[] =>
  output === ''
    ? []
    : printable(output.replace(/\n$/, ''))
        .split('\n')
        .map((line) => `    ${line}`);

export function renderScript(script: ScriptDetail, out: Output): string {
  const { id, starter, state, failure } = script;
  return [
    `${out.paint('bold', id)}  ${state}${starter ? ', starter script' : ''}`,
    ...(failure ? [`  ${failure.message}`, ...(failure.hint === null ? [] : [`  ${failure.hint}`])] : []),
    ...script.results.flatMap((line) => [
      `${String(line.number).padStart(3)}  [${endText(line)}]${line.wallMs === null ? '' : ` ${formatDuration(line.wallMs)}`}  $ ${printable(line.line)}`,
      ...indented(line.stdout),
      ...indented(line.stderr),
      ...(line.stdoutBytes > Buffer.byteLength(line.stdout) ? ['    [the rest is not kept]'] : []),
    ]),
  ].join('\n');
}

/** Waits for a script, shows it, and gives the exit status that it stands for. */
export async function showFinished(
  client: Client,
  out: Output,
  machine: string,
  { id, jobId }: Pick<Script, 'id' | 'jobId'>,
): Promise<number> {
  if (jobId !== null)
    await waitForJob(client, out, jobId).catch((error: unknown) => {
      // its lines say what happened
      if (!(error instanceof CarrelError) || error.code === 'unavailable') throw error;
    });
  const script = await client.getScript({ params: { machine, script: id } });
  out.result(script, () => renderScript(script, out));
  return script.state === 'done' && script.failed === 0 ? 0 : 1;
}

export const scriptRun: Action = async ({ args, out, connect }) => {
  const limit = args.duration('limit');
  const lines = await linesOfFile(args.word('file'));
  const machine = args.word('machine');
  const { client } = await connect();
  const { job, id } = await client.runScript({
    params: { machine },
    body: { lines, ...(limit !== undefined && { limitSeconds: Math.max(1, Math.ceil(limit / 1000)) }) },
  });
  if (args.unless('wait')) return showFinished(client, out, machine, { id: id ?? '', jobId: job.id });
  out.result({ id, job }, () => `${id} is being run: carrel script show ${machine} ${id}`);
  return undefined;
};

export const scriptList: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const { items } = await client.listScripts({ params: { machine: args.word('machine') } });
  out.table(
    items,
    [
      { head: 'ID', cell: (script) => script.id },
      { head: 'STATE', cell: (script) => script.state },
      { head: 'LINES', cell: (script) => script.lines, align: 'right' },
      { head: 'ENDED', cell: (script) => script.ended, align: 'right' },
      { head: 'FAILED', cell: (script) => script.failed, align: 'right' },
      { head: 'BY', cell: (script) => script.requester },
      { head: 'MADE', cell: (script) => script.createdAt },
      { head: 'STARTER', cell: (script) => (script.starter ? 'yes' : '') },
    ],
    'no scripts; run one with: carrel script run MACHINE FILE',
  );
  return undefined;
};

export const scriptShow: Action = async ({ args, out, connect }) => {
  const machine = args.word('machine');
  const { client } = await connect();
  const id = args.wordIf('script') ?? (await client.listScripts({ params: { machine } })).items[0]?.id;
  if (id === undefined)
    throw new CarrelError('not_found', `no script was run in ${machine}`, {
      hint: `carrel script run ${machine} FILE`,
    });
  const script = await client.getScript({ params: { machine, script: id } });
  out.result(script, () => renderScript(script, out));
  return undefined;
};
