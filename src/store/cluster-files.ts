/** The files of the private cluster: where they are, who may enter, and how a new one is made. */
import { execFile } from 'node:child_process';
import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { realpathSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { CarrelError, errnoOf, messageOf } from '#base/errors.ts';
import type { DatabaseUser } from './cluster-user.ts';

/** sockaddr_un.sun_path holds 108 bytes with its NUL, unix(7). */
const socketPathLimit = 107;
const oldestVersion = 15;
const initLimitMs = 120_000;

export interface ClusterPaths {
  /** PostgreSQL's own directory, 0700 and the database user's. */
  readonly data: string;
  /** Where its only socket is, 0700 too: root and the database user come in, nobody else. */
  readonly socketDirectory: string;
  readonly log: string;
}

/**
 * Directory with PostgreSQL's binaries as Debian installs them: the version that made the cluster in `data`,
 * or the newest if there is none yet.
 */
export function findBinaries(data: string, root = '/usr/lib/postgresql'): string {
  const made = madeBy(data);
  const versions = existsSync(root) ? readdirSync(root).map(Number) : [];
  const fitting = versions.filter((version) =>
    made === undefined ? version >= oldestVersion : version === made,
  );
  for (const version of fitting.sort((a, b) => b - a)) {
    const bin = join(root, String(version), 'bin');
    if (existsSync(join(bin, 'postgres')) && existsSync(join(bin, 'initdb'))) return bin;
  }
  if (made !== undefined)
    throw new CarrelError(
      'host_unsupported',
      `${data} was made by PostgreSQL ${made}, which is not in ${root}`,
      {
        hint: `apt-get install postgresql-${made}`,
      },
    );
  throw new CarrelError('host_unsupported', `there is no PostgreSQL ${oldestVersion} or newer in ${root}`, {
    hint: `apt-get install postgresql-${oldestVersion}, or set DATABASE_URL to a server of your own`,
  });
}

/** The major version that made the cluster; undefined if there is none. */
function madeBy(data: string): number | undefined {
  try {
    return Number(readFileSync(join(data, 'PG_VERSION'), 'utf8'));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw new CarrelError('forbidden', `the database in ${data} cannot be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Where the socket of the cluster in a data directory (a real path) is. */
export function socketDirectoryOf(dataDir: string): string {
  return join(dataDir, 'run', 'pg');
}

/** Makes the directories around the cluster; refuses a place where it could not live, before anything is started. */
export function prepareDirectories(dataDir: string, user: DatabaseUser): ClusterPaths {
  mkdirSync(dataDir, { recursive: true, mode: 0o711 });
  const root = realpathSync(dataDir);
  const run = join(root, 'run');
  const paths = {
    data: join(root, 'pg'),
    socketDirectory: socketDirectoryOf(root),
    log: join(root, 'log', 'postgres.log'),
  };
  const socket = join(paths.socketDirectory, '.s.PGSQL.5432');
  if (Buffer.byteLength(socket) > socketPathLimit)
    throw new CarrelError(
      'invalid_request',
      `the data directory's path is too long for a socket: ${socket}`,
      {
        hint: `choose one at least ${Buffer.byteLength(socket) - socketPathLimit} bytes shorter with --data`,
      },
    );
  mkdirSync(run, { recursive: true, mode: 0o711 });
  mkdirSync(dirname(paths.log), { recursive: true, mode: 0o700 });
  mkdirSync(paths.socketDirectory, { recursive: true, mode: 0o700 });
  if (process.getuid?.() === 0) {
    // The database user must be able to pass through, not to list.
    for (const path of [root, run]) chmodSync(path, (statSync(path).mode & 0o7777) | 0o011);
    chownSync(paths.socketDirectory, user.uid, user.gid);
    checkPassage(dirname(root), user);
  }
  chmodSync(paths.socketDirectory, 0o700);
  return paths;
}

function checkPassage(directory: string, user: DatabaseUser): void {
  for (let path = directory; ; path = dirname(path)) {
    const { mode, uid, gid } = statSync(path);
    const bit = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001;
    if ((mode & bit) === 0)
      throw new CarrelError('host_unsupported', `the database user cannot pass through ${path}`, {
        hint: `chmod o+x ${path}, or choose another place with --data`,
      });
    if (path === '/') return;
  }
}

/** Makes the cluster if there is none. Under another name first: one that exists is a complete one. */
export async function initCluster(paths: ClusterPaths, bin: string, user: DatabaseUser): Promise<boolean> {
  if (madeBy(paths.data) !== undefined) return false;
  const fresh = `${paths.data}.new`;
  rmSync(fresh, { recursive: true, force: true });
  mkdirSync(fresh, { mode: 0o700 });
  const root = process.getuid?.() === 0;
  if (root) chownSync(fresh, user.uid, user.gid);
  const locale = ['-E', 'UTF8', '--lc-collate=C', '--lc-ctype=C.UTF-8', '--lc-messages=C'];
  try {
    // The socket's directory is the guard, so everyone who can reach the socket may come in.
    await promisify(execFile)(
      join(bin, 'initdb'),
      ['-D', fresh, '-U', 'carrel', '-A', 'trust', '--no-instructions', '--wal-segsize=4', ...locale],
      {
        ...(root ? user : {}),
        cwd: '/',
        env: { PATH: '/usr/bin:/bin', LC_ALL: 'C.UTF-8', TZ: 'UTC' },
        timeout: initLimitMs,
      },
    );
    renameSync(fresh, paths.data);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    throw new CarrelError(
      'helper_failed',
      `initdb could not make a database in ${paths.data}: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
  return true;
}
