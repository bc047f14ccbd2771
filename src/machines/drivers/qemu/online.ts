/**
 * Online steps of a recipe (src/images/disk/online.ts): the disk that was just made is booted in the jail that every
 * virtual machine has, without a network, and the steps run in it one after the other, through the agent or typed at
 * the console. Unlike a machine it dies with whoever builds: nobody could go on with a disk that is half made. After a
 * kill -9 only an empty directory and control groups are left, and the next daemon sweeps them (`tracesOf`).
 */
import { chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { sleep } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { newId } from '#base/ids.ts';
import type { ProgramEnd, RunReply, RunRequest } from '#contract/schemas/machines.ts';
import { tryLock } from '#host/flock.ts';
import { removeTree } from '#host/trees.ts';
import { listenUnix } from '#host/unix.ts';
import type { OnlineReport, OnlineRequest, OnlineRunner, OnlineStep } from '#images/disk/online.ts';
import { diskLimits } from '#images/disk/import.ts';
import { groupOperations, machineGroup, releaseMachine } from '#isolate/kept.ts';
import { type Exec, startLive } from '#isolate/live.ts';
import type { ForkServer } from '#isolate/server.ts';
import { builderUid } from '../ids.ts';
import { makerLock } from '../kept.ts';
import { liveTerminal } from '../terminal.ts';
import type { Terminal } from '../../driver.ts';
import { createAcceleration } from './accelerator.ts';
import { connectAgent } from './agent/client.ts';
import { qemuArguments } from './argv.ts';
import { jailOperations } from '../jail.ts';
import { runOverSerial } from './serial/run.ts';
import { groupLimits, layerFileBytes, vmPaths } from './spec.ts';
import { qemuProgram, requireQemu } from './installed.ts';

export interface BuilderHost {
  readonly server: ForkServer;
  /** The directory that holds one directory per machine. */
  readonly directory: string;
  readonly instance: string;
}

/** Enough to compile in; the guest uses what it uses. */
const limits = { cpus: 1, memoryBytes: 1024 * 2 ** 20 } as const;
/** To an agent, or a shell, under emulation on a busy host. */
const bootMs = 180_000;
const powerOffMs = 30_000;
/** Of a step: more ends it. A console carries some 10 KiB/s. */
const outputBytes = { agent: 16 * 2 ** 20, console: 2 ** 20 } as const;
/** The end of QEMU's or the kernel's last words, for an error. */
const lastWords = 1000;
const mac = '02:00:00:00:00:02';
/** Descriptors in QEMU: op.descriptor counts from 3. */
const first = { qmp: 3, agent: 4 } as const;

type Run = (request: RunRequest) => Promise<RunReply>;

/** For a process that may start jails; machines of several builds live side by side. */
export function createOnlineRunner(host: BuilderHost): OnlineRunner {
  const acceleration = createAcceleration();
  return async (request) => {
    requireQemu();
    request.signal?.throwIfAborted();
    const { accelerator, groups, tscKhz } = await acceleration();
    const id = newId('machine');
    const directory = join(host.directory, id);
    await mkdir(vmPaths(directory).root, { recursive: true, mode: 0o700 });
    using _made = tryLock(makerLock(directory));
    const group = machineGroup(host.instance, id);
    const session = await host.server.openSession();
    try {
      group.limit(groupLimits(limits, accelerator));
      await chown(request.disk, builderUid, builderUid);
      using qmp = listenUnix(vmPaths(directory).qmp);
      using agent = listenUnix(vmPaths(directory).agent);
      const fds = [qmp.fd, agent.fd];
      const argv = qemuArguments({
        name: 'build',
        accelerator,
        tscKhz,
        vcpus: limits.cpus,
        memoryBytes: limits.memoryBytes,
        memory: null,
        boot: { kernel: '/image/kernel', initrd: '/image/initrd', append: request.append },
        disk: [{ node: 'image', path: '/image/disk.qcow2' }],
        cloudInit: null,
        network: { kind: 'hub' },
        mac,
        qmpFd: first.qmp,
        agentFd: first.agent,
        incoming: false,
      });
      const plan = [
        ...groupOperations(group),
        ...jailOperations({
          root: vmPaths(directory).root,
          uid: builderUid,
          groups,
          devices: accelerator === 'kvm' ? ['kvm'] : [],
          files: [
            { source: request.disk, target: '/image/disk.qcow2', kind: 'file', writable: true },
            { source: request.kernel, target: '/image/kernel', kind: 'file' },
            { source: request.initrd, target: '/image/initrd', kind: 'file' },
          ],
          proc: false,
          descriptors: fds.length,
          fileBytes: layerFileBytes(diskLimits.virtualBytes),
          argv: [qemuProgram, ...argv],
        }),
      ];
      return await build(await startLive(session, plan, { fds }), directory, request);
    } finally {
      session.close();
      await releaseMachine(host.instance, id);
      await chown(request.disk, 0, 0);
      await removeTree(directory);
    }
  };
}

/** From power on to power off. */
async function build(qemu: Exec, directory: string, request: OnlineRequest): Promise<OnlineReport[]> {
  const terminal = liveTerminal(qemu);
  const over = qemu.ended.then((): never => {
    throw new CarrelError('machine_lost', `the machine that is made has ended: ${wordsOf(terminal)}`);
  });
  over.catch(() => undefined);
  const cancelled = new Promise<never>((_, reject) => {
    request.signal?.addEventListener('abort', () => reject(request.signal?.reason), { once: true });
  });
  cancelled.catch(() => undefined);
  const meanwhile = <T>(work: Promise<T>): Promise<T> => Promise.race([work, over, cancelled]);
  try {
    if (!request.agent) {
      const login = { user: 'root', password: '' };
      const reports = await runSteps(request, outputBytes.console, (wanted) =>
        meanwhile(runOverSerial(terminal, wanted, { login, limitMs: bootMs, signal: request.signal })),
      );
      await terminal.write(Buffer.from(consolePowerOff));
      await untilOff(qemu);
      return reports;
    }
    const agent = await meanwhile(connectAgent(vmPaths(directory).agent, { limitMs: bootMs }));
    try {
      await meanwhile(agent.ping({ limitMs: bootMs }));
      const reports = await runSteps(request, outputBytes.agent, (wanted) => meanwhile(agent.run(wanted)));
      await meanwhile(agent.sync());
      // it may go before it has answered
      await agent.powerOff({ now: true }).catch(() => undefined);
      await untilOff(qemu);
      return reports;
    } finally {
      agent.close();
    }
  } finally {
    terminal.close();
  }
}

/**
 * Everything is written, the root is made read-only, and the power goes off: what the agent does, by the kernel's own
 * keys (Documentation/admin-guide/sysrq.rst).
 */
const consolePowerOff =
  '\x15sync; for k in s u; do echo $k >/proc/sysrq-trigger; sleep 1; done; echo o >/proc/sysrq-trigger\r';

async function untilOff(qemu: Exec): Promise<void> {
  const off = qemu.ended.then(() => true);
  if (await Promise.race([off, sleep(powerOffMs).then(() => false)])) return;
  throw new CarrelError('deadline_exceeded', 'the machine that is made did not switch itself off');
}

async function runSteps(
  { steps, onReport }: Pick<OnlineRequest, 'steps' | 'onReport'>,
  bytes: number,
  run: Run,
): Promise<OnlineReport[]> {
  const reports: OnlineReport[] = [];
  for (const step of steps) {
    const report = await runStep(step, bytes, run);
    reports.push(report);
    onReport?.(report, step);
    if (report.status !== 0) break;
  }
  return reports;
}

async function runStep({ argv, seconds }: OnlineStep, bytes: number, run: Run): Promise<OnlineReport> {
  const { end, stdout, wallMs } = await run({
    // errors among the rest, in their order
    argv: ['/bin/sh', '-c', 'exec "$@" 2>&1', 'sh', ...argv],
    env: {},
    cwd: '/',
    user: 'root',
    stdin: '',
    limitMs: seconds * 1000,
    outputBytes: bytes,
  });
  return {
    status: end.kind === 'exited' ? end.status : null,
    end: endOf(end, seconds),
    output: Buffer.from(stdout, 'base64').toString().toWellFormed(),
    ms: wallMs,
  };
}

function endOf(end: ProgramEnd, seconds: number): string {
  if (end.kind === 'exited') return `ended with ${end.status}`;
  if (end.kind === 'signaled') return `ended by ${end.signal}`;
  if (end.reason === 'wall') return `was ended after ${seconds} s`;
  return end.reason === 'output' ? 'wrote too much' : `was ended (${end.reason})`;
}

function wordsOf(terminal: Terminal): string {
  const { total } = terminal.read(0, 0);
  return Buffer.from(terminal.read(Math.max(0, total - lastWords)).bytes)
    .toString('latin1')
    .replaceAll(/[^\x20-\x7e\n]+/g, ' ')
    .trim();
}
