/**
 * Which cloud, and as whom: --url and --token, else CARREL_URL and CARREL_TOKEN, else the login saved by
 * `carrel login`, else the cloud of this host (its data directory names its address and the administrator's token).
 */
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { createClient, type Client } from '#contract/client.ts';

export interface Connection {
  readonly client: Client;
  /** `http://127.0.0.1:7070` */
  readonly url: string;
  readonly token: string | undefined;
}

export interface ConnectionOptions {
  readonly url?: string | undefined;
  readonly token?: string | undefined;
  readonly data?: string | undefined;
}

export const defaultDataDirectory = '/var/lib/carrel';

const login = z.strictObject({ url: z.url({ protocol: /^https?$/ }), token: z.string().min(1) });
export type Login = z.infer<typeof login>;

/** DIR/run/address.json: where the cloud of this host is served; `carrel up` writes it. */
const addressFile = z.strictObject({ url: z.url({ protocol: /^https?$/ }) });
export type AddressFile = z.infer<typeof addressFile>;

async function readJson<T>(path: string, schema: z.ZodType<T>): Promise<T | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (['ENOENT', 'EACCES', 'ENOTDIR'].includes(errnoOf(cause) ?? '')) return undefined;
    throw cause;
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new CarrelError('internal', `${path} is not JSON`, { hint: 'remove it', cause });
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success)
    throw new CarrelError('internal', `${path} is not understood: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

export function loginPath(env: NodeJS.ProcessEnv = process.env): string {
  return join(env['XDG_CONFIG_HOME'] ?? join(env['HOME'] ?? homedir(), '.config'), 'carrel', 'config.json');
}

export const readLogin = (path = loginPath()): Promise<Login | undefined> => readJson(path, login);

/** Saves a login, readable by its owner only, in one step. */
export async function saveLogin(value: Login, path = loginPath()): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const draft = `${path}.${process.pid}`;
  await writeFile(draft, `${JSON.stringify(value, undefined, 2)}\n`, { mode: 0o600 });
  await rename(draft, path);
}

export const removeLogin = (path = loginPath()): Promise<void> => rm(path, { force: true });

export const addressPath = (data: string): string => join(data, 'run', 'address.json');

export const readAddress = (data: string): Promise<AddressFile | undefined> =>
  readJson(addressPath(data), addressFile);

/** The token of the cloud's administrator: a file that only root can read. */
export async function readAdminToken(data: string): Promise<string | undefined> {
  try {
    return (await readFile(join(data, 'run', 'admin.token'), 'utf8')).trim() || undefined;
  } catch (error) {
    if (['ENOENT', 'EACCES', 'ENOTDIR'].includes(errnoOf(error) ?? '')) return undefined;
    throw error;
  }
}

/** `127.0.0.1:7070`, `cloud.example.org` and the like become URLs; a trailing slash goes. */
export function normalUrl(text: string): string {
  const withScheme = /^https?:\/\//.test(text) ? text : `http://${text}`;
  if (!URL.canParse(withScheme))
    throw new CarrelError('invalid_request', `${text} is not an address`, {
      hint: 'write it like http://127.0.0.1:7070',
    });
  return withScheme.replace(/\/+$/, '');
}

const make = (url: string, token: string | undefined): Connection => ({
  client: createClient({ base: url, ...(token !== undefined && { token }) }),
  url,
  token,
});

export async function connect(
  options: ConnectionOptions = {},
  env: NodeJS.ProcessEnv = process.env,
): Promise<Connection> {
  const givenUrl = options.url ?? env['CARREL_URL'];
  const givenToken = options.token ?? env['CARREL_TOKEN'];
  if (givenUrl !== undefined && givenToken !== undefined) return make(normalUrl(givenUrl), givenToken);

  const data = options.data ?? env['CARREL_DATA'];
  const saved = data === undefined ? await readLogin(loginPath(env)) : undefined;
  if (givenUrl !== undefined) {
    const url = normalUrl(givenUrl);
    return make(url, saved?.url === url ? saved.token : undefined);
  }
  if (saved) return make(saved.url, givenToken ?? saved.token);

  const directory = data ?? defaultDataDirectory;
  const local = await readAddress(directory);
  if (!local)
    throw new CarrelError(
      'unavailable',
      `no cloud is up in ${directory}, and you are not signed in to another`,
      {
        hint: 'start one with: carrel up   or sign in with: carrel login URL --token TOKEN',
      },
    );
  const token = givenToken ?? (await readAdminToken(directory));
  if (token === undefined)
    throw new CarrelError('unauthenticated', 'you are not signed in', {
      hint: `sign in with: carrel login ${local.url} --token TOKEN`,
    });
  return make(local.url, token);
}
