/** `carrel console`: on our terminal, or as a port for telnet. */
import { once } from 'node:events';
import { api } from '#contract/api.ts';
import { urlOf } from '#contract/client.ts';
import { formatEndpoint, parseListen } from '#fabric/listeners.ts';
import type { Action } from '../spec.ts';
import { machineConsole } from './machine-exec.ts';

export const console: Action = async (context) => {
  const { args, out, connect } = context;
  const telnet = args.option('telnet');
  if (telnet === undefined) return machineConsole(context);
  const machine = args.word('machine');
  const { client, url, token } = await connect();
  await client.getMachine({ params: { machine } }); // who may not see it is told now
  const { serveTelnet } = await import('../telnet/serve.ts');
  const server = await serveTelnet({
    listen: parseListen(telnet),
    url: urlOf(url, api.attachConsole, { params: { machine } }),
    token,
    from: args.number('from'),
    readOnly: args.flag('readOnly'),
    say: (text) => out.note(text),
  });
  const told = Promise.race((['SIGINT', 'SIGTERM', 'SIGHUP'] as const).map((name) => once(process, name)));
  out.result(
    { host: server.host, port: server.port },
    () =>
      `The console of ${machine} is at ${formatEndpoint(server)}: telnet ${server.host} ${server.port}\nCtrl-C ends it.`,
  );
  await told;
  await server.close();
  return undefined;
};
