/** The first administrator: made at the first start, the token left in a file that only root can read. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf } from '#base/errors.ts';
import { writeFileAtomic } from '#host/files.ts';
import type { Db } from '#store/schema.ts';
import { insertToken, selectOptionalUserByTokenHash } from '#store/tokens.ts';
import { insertUser, selectOptionalUserByName } from '#store/users.ts';
import { hashSecret, newSecret } from './secret.ts';

/** Where the token is: `DIR/run/admin.token`, mode 0600. */
export function adminTokenPath(dataDirectory: string): string {
  return join(dataDirectory, 'run', 'admin.token');
}

/**
 * Makes user `admin` if there is none, and a token if the file holds none that is valid (removing the file is
 * how one gets a new one: whoever can do that is root already). The row is committed before the file is written.
 */
export async function ensureAdmin(db: Db, dataDirectory: string): Promise<{ readonly created: boolean }> {
  const path = adminTokenPath(dataDirectory);
  const admin =
    (await selectOptionalUserByName(db, 'admin')) ?? (await insertUser(db, { name: 'admin', admin: true }));
  const present = await readOptional(path);
  if (present && (await selectOptionalUserByTokenHash(db, hashSecret(present.trim()))))
    return { created: false };
  const secret = newSecret();
  await insertToken(db, { user_id: admin.id, hash: hashSecret(secret), label: 'first administrator' });
  await writeFileAtomic(path, `${secret}\n`, { mode: 0o600 });
  return { created: true };
}

async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}
