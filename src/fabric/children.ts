/** The doorman's two children, and what is left of them when a doorman was killed. */
import { openSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import * as z from 'zod';
import { errnoOf } from '#base/errors.ts';
import { within } from '#base/deadline.ts';
import type { Logger } from '#base/log.ts';
import { type Fd, ownFd } from '#host/fds.ts';
import { writeFileAtomicSync } from '#host/files.ts';
import { type Argv, type Service, launchService } from '#host/launch.ts';
import { type ProcessIdentity, endProcess, isAlive, untilGone } from '#host/processes.ts';
import { formatAddress } from './addresses.ts';
import { type FabricEnvironment, fabricVariable, ownAddresses } from './environment.ts';
import { type Listener, listenVariable } from './listeners.ts';
import type { FabricNamespace } from './namespace.ts';
import { type Supervised, supervise } from './supervisor.ts';
import { resolverAddress, startUplink } from './uplink.ts';

/** A daemon log larger than this is put aside at the next start. */
const MAX_LOG_BYTES = 16 * 2 ** 20;

/** Where the control socket of the cloud in DIR is. */
export function controlPath(dataDirectory: string): string {
  return join(dataDirectory, 'run', 'doorman.sock');
}

const identitySchema = z.looseObject({ pid: z.int().positive(), startTime: z.string() });

function recordedProcess(path: string): ProcessIdentity | undefined {
  try {
    const parsed = identitySchema.safeParse(JSON.parse(readFileSync(path, 'utf8')));
    return parsed.success && isAlive(parsed.data) ? parsed.data : undefined;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** Ends what an earlier doorman, killed before it could, left running outside the machines. */
export async function endLeftovers(runDirectory: string, graceMs: number): Promise<void> {
  const daemon = recordedProcess(join(runDirectory, 'daemon.json'));
  if (daemon) {
    // its stdin has ended, so it is shutting down already
    await untilGone(daemon, graceMs).catch(async () => await endProcess(daemon));
  }
  const uplink = recordedProcess(join(runDirectory, 'uplink.json'));
  if (uplink) await endProcess(uplink);
  for (const name of ['daemon.json', 'uplink.json']) rmSync(join(runDirectory, name), { force: true });
}

/** A child that is started but cannot be recorded (a full disk) is ended: it would be lost after kill -9. */
async function record(service: Service, path: string): Promise<Service> {
  try {
    writeFileAtomicSync(path, JSON.stringify(service.identity));
    return service;
  } catch (error) {
    await service.stop({ graceMs: 0 });
    throw error;
  }
}

/** The daemon's output; begun anew at a start when it has grown large, with one older file kept. */
export function openLog(directory: string): Fd {
  const path = join(directory, 'daemon.log');
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  if (size > MAX_LOG_BYTES) renameSync(path, `${path}.1`);
  return ownFd(openSync(path, 'a', 0o600));
}

/** A daemon that serves has added its URL to its record. */
function served({ identity }: Service, path: string): boolean {
  try {
    const parsed = identitySchema.safeParse(JSON.parse(readFileSync(path, 'utf8')));
    return parsed.data?.pid === identity.pid && parsed.data['url'] !== undefined;
  } catch {
    return false;
  }
}

/** Keeps the daemon running inside the fabric, with the listening sockets as descriptors from 3 on. */
export function superviseDaemon({
  dataDirectory,
  argv,
  env,
  giveUpAfter,
  namespace,
  netnsFd,
  logFd,
  listeners,
  log,
}: {
  dataDirectory: string;
  argv: Argv;
  env: NodeJS.ProcessEnv;
  giveUpAfter: number;
  namespace: FabricNamespace;
  netnsFd: number;
  logFd: number;
  listeners: readonly (Listener & { name: string })[];
  log: Logger;
}): Supervised {
  return supervise({
    name: 'daemon',
    giveUpAfter,
    worked: (service) => served(service, join(dataDirectory, 'run', 'daemon.json')),
    log,
    start: async () => {
      const environment: FabricEnvironment = {
        netns: namespace.netns,
        hostAddresses: ownAddresses(), // asked at each start: they may have changed
        resolver: formatAddress(resolverAddress),
        control: controlPath(dataDirectory),
      };
      const service = await launchService(namespace.inside(argv, netnsFd), {
        stdio: ['pipe', logFd, logFd, ...listeners.map(({ socket }) => socket.fd)],
        env: {
          ...env,
          [listenVariable]: describeListeners(listeners),
          [fabricVariable]: JSON.stringify(environment),
        },
      });
      service.child.stdin?.on('error', () => undefined);
      return await record(service, join(dataDirectory, 'run', 'daemon.json'));
    },
  });
}

function describeListeners(listeners: readonly (Listener & { name: string })[]): string {
  return JSON.stringify(
    listeners.map(({ name, host, port }, index) => ({ fd: 3 + index, name, host, port })),
  );
}

/** Keeps the uplink running, as far as there can be one. */
export function superviseUplink({
  namespace,
  netnsFd,
  runDirectory,
  log,
}: {
  namespace: FabricNamespace;
  netnsFd: number;
  runDirectory: string;
  log: Logger;
}): Supervised {
  return supervise({
    name: 'uplink',
    firstMs: 500,
    maxMs: 60_000,
    log,
    start: async () => {
      const service = await startUplink(namespace, netnsFd);
      return await record(service, join(runDirectory, 'uplink.json'));
    },
  });
}

/** The end of its stdin asks; a daemon that does not listen is ended. */
export async function shutDown(service: Service, graceMs: number): Promise<void> {
  service.child.stdin?.end();
  try {
    await within(graceMs, 'the daemon to shut down', service.exited);
  } catch {
    await service.stop();
  }
}
