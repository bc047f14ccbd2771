/** What the doorman's tests share: a stand-in for the host, and a small daemon. For a test file of its own process. */
import assert from 'node:assert/strict';
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import * as z from 'zod';
import { type Argv, type Service, type ServiceOptions, launchService } from '#host/launch.ts';
import { type ProcessIdentity, endProcess } from '#host/processes.ts';
import { type Netbed, enterNetns, linkNames, makeNetns, netnsLeft } from '#test/netbed.ts';
import type { Doorman, DoormanOptions } from './doorman.ts';

const root = process.getuid?.() === 0;
export const skip = root ? false : 'needs root';
export const directory = mkdtempSync(join(tmpdir(), 'doorman-'));
const stack = new AsyncDisposableStack();
const links = linkNames();
let outside: Netbed;
let host: Netbed;

const identitySchema = z.looseObject({ pid: z.int(), startTime: z.string() });

/** A small daemon: opens the fabric, says who and where it is, ends with its standard input. */
export const daemonSource = `
import { createServer } from 'node:http';
import { openFabric } from '${import.meta.dirname}/fabric.ts';
import { fabricEnvironment } from '${import.meta.dirname}/environment.ts';
import { inheritedListeners } from '${import.meta.dirname}/listeners.ts';
import { netnsOf } from '${import.meta.dirname}/netns.ts';
using fabric = await openFabric(fabricEnvironment());
await fabric.reconcile([]);
const server = createServer((request, response) => {
  const [, pid] = request.url.split('/plug/');
  const wire = { machineId: 'm-000000000002', address: '192.168.0.2', mac: '02:ca:c0:a8:00:02', owner: 'anna' };
  const plugged = pid === undefined ? Promise.resolve() : fabric.plug({ ...wire, pid: Number(pid) });
  const answer = JSON.stringify({ pid: process.pid, netns: netnsOf('self') });
  plugged.then(() => response.end(answer), (error) => response.end(JSON.stringify(String(error))));
});
for (const { fd } of inheritedListeners()) server.listen({ fd });
process.stdin.on('end', () => process.exit(0)).resume();
await new Promise(() => undefined);
`;

/** For the whole test file: its main thread lives in a stand-in host until it is over. */
export function useStandInHost(): void {
  before(async () => {
    if (!root) return;
    writeFileSync(join(directory, 'daemon.ts'), daemonSource);
    // a stand-in for the host, with a way out to a stand-in for the world: nothing here touches the real one
    host = stack.use(await makeNetns());
    outside = stack.use(await makeNetns());
    await host.run('ip', 'link', 'set', 'lo', 'up');
    await host.run(
      'ip',
      'link',
      'add',
      'host0',
      'type',
      'veth',
      'peer',
      'name',
      'world0',
      'netns',
      String(outside.pid),
    );
    await host.run('ip', 'addr', 'add', '198.51.100.2/24', 'dev', 'host0');
    await host.run('ip', 'link', 'set', 'host0', 'up');
    await host.run('ip', 'route', 'add', 'default', 'via', '198.51.100.1');
    await outside.run('ip', 'addr', 'add', '198.51.100.1/24', 'dev', 'world0');
    await outside.run('ip', 'addr', 'add', '203.0.113.1/32', 'dev', 'world0');
    await outside.run('ip', 'link', 'set', 'world0', 'up');
    enterNetns(host.pid);
  });

  after(async () => {
    if (!root) return;
    enterNetns(process.ppid);
    await stack.disposeAsync();
    // only a test that failed half way has left a fabric
    for (const file of globSync(join(directory, '**/fabric.json')))
      await endProcess(identitySchema.parse(JSON.parse(readFileSync(file, 'utf8'))));
    rmSync(directory, { recursive: true });
    assert.deepEqual(netnsLeft(), []);
    assert.deepEqual(linkNames(), links);
  });
}

/** The world beyond the stand-in host: 198.51.100.1 on the wire, 203.0.113.1 behind it. */
export function world(): Netbed {
  return outside;
}

/** A child that ends with this file at the latest. */
export async function start(argv: Argv, more: ServiceOptions = {}): Promise<Service> {
  const service = await launchService(argv, more);
  stack.defer(async () => void (await service.stop({ graceMs: 500 })));
  return service;
}

export function options(name: string, more: Partial<DoormanOptions> = {}): DoormanOptions {
  return {
    dataDirectory: join(directory, name),
    listen: [{ name: 'http', host: '127.0.0.1', port: 0 }],
    argv: [process.execPath, join(directory, 'daemon.ts')],
    uplink: 'none',
    ...more,
  };
}

const daemonAnswer = z.strictObject({ pid: z.int(), netns: z.string() });

/** Asks the daemon over a new connection; while it restarts, the connection waits. */
export async function ask(port: number, path = '/'): Promise<z.infer<typeof daemonAnswer>> {
  return await new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', port, path, agent: false, timeout: 10_000 }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
      response.on('end', () => resolve(daemonAnswer.parse(JSON.parse(text))));
    });
    asked.on('timeout', () => asked.destroy(new Error('no answer'))).on('error', reject);
    asked.end();
  });
}

export function portOf(doorman: Doorman): number {
  return doorman.status.listeners[0]?.port ?? 0;
}

/** Whom DIR/run/<file> names. */
export function recorded(name: string, file: string): ProcessIdentity {
  return identitySchema.parse(JSON.parse(readFileSync(join(directory, name, 'run', file), 'utf8')));
}
