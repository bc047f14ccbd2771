/** `carrel vmm serve GUEST`. */
import { randomBytes } from 'node:crypto';
import { CarrelError } from '#base/errors.ts';
import { formatEndpoint, isLoopback, parseListen } from '#fabric/listeners.ts';
import { serveSession } from '#vmm/serve/server.ts';
import type { Action } from '../../spec.ts';
import { diskOf, interruptible, limitOf, machineOptionsOf, shareOf } from './options.ts';

const leastToken = 16;

function tokenOf(given: string | undefined): string {
  if (given === undefined) return randomBytes(24).toString('base64url');
  if (given.length < leastToken || !/^[\w.~-]+$/.test(given))
    throw new CarrelError('invalid_request', `a token has at least ${leastToken} letters, digits, - _ . ~`, {
      hint: 'leave it out: a random one is made, and printed',
    });
  return given;
}

export const vmmServe: Action = async ({ args, out }) => {
  const endpoint = parseListen(args.option('listen') ?? '127.0.0.1:0');
  if (!isLoopback(endpoint.host))
    throw new CarrelError(
      'forbidden',
      `${formatEndpoint(endpoint)} can be reached from elsewhere, and the token would travel in the clear`,
      { hint: 'listen on 127.0.0.1; from elsewhere come through ssh -L' },
    );
  const given = args.option('token') ?? process.env['CARREL_VMM_TOKEN'];
  const token = tokenOf(given);
  const served = await serveSession(await machineOptionsOf(args), {
    ...endpoint,
    token,
    origins: args.many('origin'),
    idleMs: args.duration('idle') ?? 10 * 60_000,
    lifetimeMs: args.duration('lifetime') ?? 8 * 3_600_000,
    limitMs: limitOf(args, 60_000),
    ports: args.option('ports') ?? 'carrel',
    ...(await shareOf(args)),
    ...diskOf(args),
  });
  using interrupt = interruptible();
  interrupt.signal.addEventListener('abort', () => served.stop());
  const url = `http://${formatEndpoint(served)}`;
  out.result({ url, token }, () =>
    [
      `serving at ${url}; Ctrl-C ends it`,
      ...(given === undefined ? [`token ${token}`] : []),
      `try: curl -H 'authorization: Bearer ${given === undefined ? token : 'TOKEN'}' ${url}/snapshot`,
    ].join('\n'),
  );
  const why = await served.ended;
  out.note(`ended: ${why}`);
  return undefined;
};
