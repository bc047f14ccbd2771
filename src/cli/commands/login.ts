/** Signing in and out. */
import { createInterface } from 'node:readline/promises';
import { CarrelError } from '#base/errors.ts';
import { createClient } from '#contract/client.ts';
import { loginPath, normalUrl, removeLogin, saveLogin } from '../connection.ts';
import type { Action } from '../spec.ts';

/** Reads a secret: from a pipe to its end, on a terminal without showing it. */
async function readSecret(question: string): Promise<string> {
  if (!process.stdin.isTTY) {
    const chunks: Buffer[] = [];
    for await (const chunk of process.stdin) chunks.push(Buffer.from(chunk));
    return Buffer.concat(chunks).toString('utf8').trim();
  }
  process.stderr.write(question);
  const lines = createInterface({ input: process.stdin, terminal: true, output: undefined });
  try {
    return (await lines.question('')).trim();
  } finally {
    lines.close();
    process.stderr.write('\n');
  }
}

export const login: Action = async ({ args, out }) => {
  const url = normalUrl(args.word('url'));
  const token = args.option('token') ?? process.env['CARREL_TOKEN'] ?? (await readSecret('Token: '));
  if (token === '') throw new CarrelError('invalid_request', 'no token was given');
  const me = await createClient({ base: url, token }).getMe({ params: {} });
  await saveLogin({ url, token });
  out.result({ url, user: me }, () => `Signed in to ${url} as ${me.name}. Saved in ${loginPath()}.`);
  return undefined;
};

export const logout: Action = async ({ out }) => {
  await removeLogin();
  out.result({}, () => 'Signed out.');
  return undefined;
};

export const whoami: Action = async ({ out, connect }) => {
  const { client, url } = await connect();
  const me = await client.getMe({ params: {} });
  out.result({ ...me, url }, () => `${me.name}${me.admin ? ' (administrator)' : ''} at ${url}`);
  return undefined;
};
