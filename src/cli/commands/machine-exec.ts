/** `machine exec` and `machine console`. */
import { urlOf } from '#contract/client.ts';
import { api } from '#contract/api.ts';
import { CarrelError } from '#base/errors.ts';
import type { Exec } from '#contract/schemas/machines.ts';
import { chunksOf } from '../archive.ts';
import type { Connection } from '../connection.ts';
import { describeEnd, statusOf } from '../program-end.ts';
import type { Action, Context } from '../spec.ts';
import { needTerminal, parseEscape, runTerminal, terminalSize } from '../terminal.ts';

async function findOrStart({ args }: Context, { client }: Connection, machine: string): Promise<Exec> {
  const attach = args.option('attach');
  if (attach !== undefined) return await client.getExec({ params: { machine, exec: attach } });
  const program = args.program('program');
  const cwd = args.option('cwd');
  const user = args.option('user');
  if (args.flag('tty') && !args.flag('detach')) needTerminal();
  const tty = args.flag('tty') || (process.stdin.isTTY && process.stdout.isTTY && !args.flag('detach'));
  return await client.createExec({
    params: { machine },
    body: {
      argv: program.length > 0 ? [...program] : ['/bin/sh'],
      env: { TERM: process.env['TERM'] ?? 'xterm', ...args.pairs('env') },
      tty: tty ? terminalSize() : null,
      ...(cwd !== undefined && { cwd }),
      ...(user !== undefined && { user }),
    },
  });
}

export const machineExec: Action = async (context) => {
  const { args, out } = context;
  const connection = await context.connect();
  const machine = args.word('machine');
  const exec = await findOrStart(context, connection, machine);
  if (args.flag('detach')) {
    out.result(exec, () => `${exec.id}\nCome back with: carrel machine exec --attach ${exec.id} ${machine}`);
    return undefined;
  }
  const { end, left } = await runTerminal({
    url: urlOf(connection.url, api.attachExec, { params: { machine, exec: exec.id } }),
    token: connection.token,
    from: args.option('attach') === undefined ? 0 : undefined,
    raw: exec.tty && process.stdin.isTTY,
    say: (text) => out.note(text),
  });
  if (left) {
    out.note(`\r\nLeft; it goes on: carrel machine exec --attach ${exec.id} ${machine}`);
    return undefined;
  }
  if (!end)
    throw new CarrelError('machine_lost', `${exec.id} ended without saying how`, {
      hint: `carrel machine show ${machine}`,
    });
  const words = describeEnd(end);
  if (words !== undefined) out.note(`carrel: ${words}`);
  return statusOf(end);
};

export const machineConsole: Action = async ({ args, out, connect }) => {
  const connection = await connect();
  const machine = args.word('machine');
  if (args.flag('transcript')) {
    const from = args.number('from');
    const kept = await connection.client.getConsoleTranscript({
      params: { machine },
      query: from === undefined ? {} : { from },
    });
    for await (const chunk of chunksOf(kept)) await out.bytes(chunk);
    return undefined;
  }
  const escape = parseEscape(args.option('escape') ?? '^]');
  out.note(`Console of ${machine}. ${escape ? `${escape.name} leaves.` : 'No key leaves.'}`);
  const { left } = await runTerminal({
    url: urlOf(connection.url, api.attachConsole, { params: { machine } }),
    token: connection.token,
    from: args.number('from'),
    readOnly: args.flag('readOnly'),
    escape,
    say: (text) => out.note(text),
  });
  out.note(left ? '\r\nLeft.' : '\r\nThe console has ended.');
  return undefined;
};
