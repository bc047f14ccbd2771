/** Starting the cloud of this host: in this process, or as one of its own. */
import { spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CarrelError } from '#base/errors.ts';
import { createLogger } from '#base/log.ts';
import { formatAddress } from '#fabric/addresses.ts';
import { runDoorman, type DoormanEnd } from '#fabric/doorman.ts';
import { formatEndpoint, type Endpoint } from '#fabric/listeners.ts';
import { resolverAddress } from '#fabric/uplink.ts';
import { writeFileAtomicSync } from '#host/files.ts';
import { addressPath } from '../connection.ts';
import { tailOf } from './ready.ts';

const program = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
const nodeFlags = ['--disable-warning=ExperimentalWarning'];
/** A small young generation keeps the idle daemon some 30 MiB smaller and costs it nothing measurable. */
const daemonFlags = ['--max-semi-space-size=4'];

export interface CloudOptions {
  readonly data: string;
  readonly listen: Endpoint;
  readonly uplink: boolean;
  /** Where the OS-Cloud routes are served, and whether without tokens; undefined: nowhere. */
  readonly osCloud: { readonly endpoint: Endpoint; readonly open: boolean } | undefined;
}

/** Where people and the client reach a socket: one that listens everywhere is reached by the loopback. */
export function urlOf({ host, port }: Endpoint): string {
  const reached =
    host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '[::1]' : host.includes(':') ? `[${host}]` : host;
  return `http://${reached}:${port}`;
}

/**
 * The daemon's command. It sees the uplink's name server instead of the host's: image builds fetch packages.
 * The mount namespace for that is a slave of the host's: disks mounted later appear in it.
 */
function daemonArgv({ data, uplink, osCloud }: CloudOptions): [string, ...string[]] {
  const daemon = [
    process.execPath,
    ...nodeFlags,
    ...daemonFlags,
    program('../../server/main.ts'),
    '--data',
    data,
    ...(osCloud?.open ? ['--oscloud-open'] : []),
  ] as const;
  if (!uplink) return [...daemon];
  const resolver = join(data, 'run', 'resolv.conf');
  writeFileAtomicSync(resolver, `nameserver ${formatAddress(resolverAddress)}\n`, { mode: 0o644 });
  return [
    'unshare',
    '--mount',
    '--propagation',
    'slave',
    '--',
    '/bin/sh',
    program('with-resolver.sh'),
    resolver,
    ...daemon,
  ];
}

/** Runs the cloud in this process until SIGINT, SIGTERM or `signal`. `started` is called with its address. */
export async function runCloud(
  options: CloudOptions,
  { started, signal }: { started: (url: string) => void; signal?: AbortSignal },
): Promise<DoormanEnd> {
  const { data, listen, uplink, osCloud } = options;
  for (const name of ['log', 'run']) mkdirSync(join(data, name), { recursive: true, mode: 0o700 });
  const log = openSync(join(data, 'log', 'doorman.log'), 'a', 0o600);
  try {
    return await runDoorman({
      dataDirectory: data,
      listen: [{ name: 'http', ...listen }, ...(osCloud ? [{ name: 'oscloud', ...osCloud.endpoint }] : [])],
      argv: daemonArgv(options),
      env: { ...process.env, CARREL_DATA: data },
      uplink: uplink ? 'pasta' : 'none',
      giveUpAfter: 5,
      log: createLogger({ write: (line) => void writeSync(log, line) }),
      ...(signal && { signal }),
      onStarted(doorman) {
        const [http] = doorman.status.listeners;
        if (!http) throw new CarrelError('internal', 'nothing listens');
        const url = urlOf(http);
        writeFileAtomicSync(addressPath(data), JSON.stringify({ url }), { mode: 0o644 });
        started(url);
      },
    });
  } finally {
    rmSync(addressPath(data), { force: true });
    closeSync(log);
  }
}

export interface Detached {
  readonly pid: number;
  /** Why it has ended, once it has. */
  readonly over: () => string | undefined;
  /** It may outlive us now. */
  release(): void;
  /** Tells it to end. */
  end(): void;
}

/** Starts `carrel up` once more, as a session of its own, with its words in DIR/log/carrel.log. */
export function startDetached({ data, listen, uplink, osCloud }: CloudOptions): Detached {
  mkdirSync(join(data, 'log'), { recursive: true, mode: 0o700 });
  const path = join(data, 'log', 'carrel.log');
  const log = openSync(path, 'a', 0o600);
  const child = spawn(
    process.execPath,
    [
      ...nodeFlags,
      program('../main.ts'),
      'up',
      '--data',
      data,
      '--listen',
      formatEndpoint(listen),
      ...(uplink ? [] : ['--no-uplink']),
      ...(osCloud ? ['--oscloud', formatEndpoint(osCloud.endpoint)] : []),
      ...(osCloud?.open ? ['--oscloud-open'] : []),
    ],
    { detached: true, stdio: ['ignore', log, log], cwd: '/' },
  );
  closeSync(log);
  let over: string | undefined;
  child.once('exit', (status, signal) => {
    over = `it ended (${signal ?? `status ${status}`})`;
  });
  child.once('error', (error) => {
    over = error.message;
  });
  if (child.pid === undefined) throw new CarrelError('helper_failed', 'the cloud could not be started');
  return {
    pid: child.pid,
    over: () => over,
    release: () => child.unref(),
    end: () => void child.kill('SIGTERM'),
  };
}

/** What a detached cloud said before it ended. */
export const detachedWords = (data: string): Promise<string> => tailOf(join(data, 'log', 'carrel.log'));
