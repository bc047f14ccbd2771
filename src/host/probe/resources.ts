/** Cores, memory, disk, loop devices, and the port. */
import { access, constants, readFile, statfs } from 'node:fs/promises';
import { createServer } from 'node:net';
import { availableParallelism } from 'node:os';
import { errnoOf } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { Finding, Probe, ProbeContext } from './finding.ts';
import { existingAbove } from './mounting.ts';

const GiB = 2 ** 30;
const defaultPort = 7070;

/** MemAvailable of /proc/meminfo in bytes (proc_meminfo(5)). */
export function availableMemory(meminfo: string): number {
  return Number(/^MemAvailable:\s+(\d+) kB$/m.exec(meminfo)?.[1] ?? 0) * 1024;
}

export function judgeMemory(bytes: number): Finding {
  const enough = bytes >= GiB;
  return {
    id: 'resource.memory',
    title: 'memory',
    state: enough ? 'ok' : 'degraded',
    found: `${formatSize(bytes)} available`,
    consequence: enough
      ? `about ${Math.floor((bytes - GiB / 2) / (GiB / 2))} machines of the usual 512 MiB at full use`
      : 'a few small machines only',
    ...(!enough && { remedy: 'give the host at least 2 GiB' }),
  };
}

/** A cloud is started by root; what a student's own account needs is only the command line. */
function judgeRoot(root: boolean): Finding {
  return {
    id: 'resource.root',
    title: 'root',
    state: root ? 'ok' : 'degraded',
    found: root ? 'yes' : 'no',
    consequence: root
      ? 'a cloud can be started'
      : 'this account can use a cloud (carrel login), not start one; the findings are those of this account',
    ...(!root && { remedy: 'run the doctor as root for the findings that count for a cloud' }),
  };
}

async function probeDisk({ data }: ProbeContext): Promise<Finding> {
  const at = existingAbove(data);
  const { bavail, bsize } = await statfs(at);
  const bytes = bavail * bsize;
  const enough = bytes >= 5 * GiB;
  return {
    id: 'resource.disk',
    title: 'disk',
    state: enough ? 'ok' : 'degraded',
    found: `${formatSize(bytes)} free at ${at}`,
    consequence: enough
      ? 'images, machines and submissions have room'
      : 'the Debian image takes 1 GiB while it is built',
    ...(!enough && { remedy: 'make room, or put the data elsewhere with --data' }),
  };
}

async function probeLoop({ root }: ProbeContext): Promise<Finding> {
  const usable = await access('/dev/loop-control', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  return {
    id: 'resource.loop',
    title: 'loop devices',
    state: usable ? 'ok' : 'degraded',
    found: usable ? 'may be used' : 'may not be used',
    consequence: usable ? 'the disks of machines have a fixed size' : 'what machines write is not limited',
    ...(!usable && { remedy: root ? 'modprobe loop' : 'run as root' }),
  };
}

/** Whether the usual port is free: listening on it and letting go at once. */
function probePort(): Promise<Finding> {
  const base = { id: 'resource.port', title: `port ${defaultPort}` };
  const consequence = 'carrel up serves there unless told otherwise';
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error) => {
      const used = errnoOf(error) === 'EADDRINUSE';
      resolve({
        ...base,
        state: used ? 'ok' : 'degraded',
        found: used ? 'in use, perhaps by Carrel itself' : error.message,
        consequence: used ? 'another cloud needs another: --listen 127.0.0.1:7071' : consequence,
      });
    });
    server.listen({ host: '127.0.0.1', port: defaultPort, exclusive: true }, () => {
      server.close(() => resolve({ ...base, state: 'ok', found: 'free on 127.0.0.1', consequence }));
    });
  });
}

export const resources: Probe = {
  topic: 'resources',
  run: async (context) => [
    {
      id: 'resource.cpus',
      title: 'cores',
      state: 'ok',
      found: String(availableParallelism()),
      consequence: 'as many submissions are graded side by side',
    },
    judgeRoot(context.root),
    judgeMemory(availableMemory(await readFile('/proc/meminfo', 'utf8'))),
    await probeDisk(context),
    await probeLoop(context),
    await probePort(),
  ],
};
