/** The demo's accounts, and their tokens in DIR/run/demo.json, so that a second run signs in as the same people. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { errnoOf, isCarrelError } from '#base/errors.ts';
import { createClient, type Client } from '#contract/client.ts';
import type { Role } from '#contract/schemas/people.ts';
import { writeFileAtomic } from '#host/files.ts';
import type { Connection } from '../connection.ts';

export interface Person {
  readonly name: string;
  readonly role: Role;
  readonly client: Client;
}

const tokens = z.record(z.string(), z.string());
const tokenPath = (data: string): string => join(data, 'run', 'demo.json');

async function readTokens(data: string): Promise<Record<string, string>> {
  try {
    const parsed = tokens.safeParse(JSON.parse(await readFile(tokenPath(data), 'utf8')));
    return parsed.data ?? {};
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return {};
    throw error;
  }
}

async function works(client: Client): Promise<boolean> {
  try {
    await client.getMe({ params: {} });
    return true;
  } catch (error) {
    if (isCarrelError(error, 'unauthenticated')) return false;
    throw error;
  }
}

async function tokenFor(admin: Client, name: string): Promise<string> {
  try {
    await admin.createUser({ params: {}, body: { name } });
  } catch (error) {
    if (!isCarrelError(error, 'name_taken')) throw error;
  }
  const { secret } = await admin.createToken({ params: {}, body: { user: name, label: 'demo', days: 30 } });
  return secret;
}

/** Makes the accounts that are missing; everybody comes with a client signed in as them. */
export async function ensurePeople(
  { client: admin, url }: Connection,
  data: string,
  wanted: readonly { name: string; role: Role }[],
): Promise<Person[]> {
  const known = await readTokens(data);
  const people: Person[] = [];
  for (const { name, role } of wanted) {
    const before = known[name];
    const old = before === undefined ? undefined : createClient({ base: url, token: before });
    if (old && (await works(old))) {
      people.push({ name, role, client: old });
      continue;
    }
    const token = await tokenFor(admin, name);
    known[name] = token;
    people.push({ name, role, client: createClient({ base: url, token }) });
  }
  await writeFileAtomic(tokenPath(data), JSON.stringify(known), { mode: 0o600 });
  return people;
}
