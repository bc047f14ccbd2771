/** `machine run`: a program's output and exit status become ours. */
import { buffer } from 'node:stream/consumers';
import { describeEnd, statusOf } from '../program-end.ts';
import type { Action } from '../spec.ts';

export const machineRun: Action = async ({ args, out, connect }) => {
  const limitMs = args.duration('limit');
  const cwd = args.option('cwd');
  const user = args.option('user');
  const env = args.pairs('env');
  const stdin = args.flag('stdin') ? (await buffer(process.stdin)).toString('base64') : '';
  const { client } = await connect();
  const reply = await client.runInMachine({
    params: { machine: args.word('machine') },
    body: {
      argv: [...args.program('program')],
      env,
      stdin,
      ...(limitMs !== undefined && { limitMs }),
      ...(cwd !== undefined && { cwd }),
      ...(user !== undefined && { user }),
    },
  });
  if (out.json) out.result(reply, () => '');
  else {
    await out.bytes(Buffer.from(reply.stdout, 'base64'));
    process.stderr.write(Buffer.from(reply.stderr, 'base64'));
    const words = describeEnd(reply.end);
    if (words !== undefined) out.note(`carrel: ${words}`);
  }
  return statusOf(reply.end);
};
