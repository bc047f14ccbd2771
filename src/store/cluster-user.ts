/** The system user that PostgreSQL runs as: it refuses to run as root, and the daemon's files are none of its business. */
import { readFileSync } from 'node:fs';
import { CarrelError } from '#base/errors.ts';

export const databaseUserName = 'carrel-db';

/** `undefined` ids mean: the user we are. */
export interface DatabaseUser {
  readonly uid: number;
  readonly gid: number;
}

/** The user's ids from /etc/passwd, passwd(5). */
export function findSystemUser(name: string): DatabaseUser | undefined {
  for (const line of readFileSync('/etc/passwd', 'utf8').split('\n')) {
    const fields = line.split(':');
    if (fields[0] === name) return { uid: Number(fields[2]), gid: Number(fields[3]) };
  }
  return undefined;
}

/** Who the cluster is to run as: `carrel-db` if we are root, otherwise ourselves. */
export function databaseUser(): DatabaseUser {
  const uid = process.getuid?.() ?? 0;
  if (uid !== 0) return { uid, gid: process.getgid?.() ?? uid };
  const user = findSystemUser(databaseUserName);
  if (user) return user;
  throw new CarrelError('host_unsupported', `the system user ${databaseUserName} does not exist`, {
    hint: `run the set-up, or: useradd --system ${databaseUserName}`,
  });
}
