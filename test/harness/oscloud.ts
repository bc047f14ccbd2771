/** The OS-Cloud lab as one who works through it sees it: its routes, ssh into its machines, and the cloud behind it. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from '#base/deadline.ts';
import { openStream, type Stream } from '#cli/stream.ts';
import type { OsCloudTables } from '#contract/schemas/oscloud.ts';
import { type Argv, launch, type LaunchResult, launchService } from '#host/launch.ts';
import type { Netbed } from '../netbed.ts';
import type { Cloud } from './cloud.ts';

/** What the lab's machines are made of. */
export const labImage = 'ubuntu_22.04';
/** The stand-in for the internet: a documentation range, which machines may go to (RFC 5737). */
export const world = '203.0.113.2';

/** An HTTP server in the stand-in for the internet; its pages lie below `scratch`. */
export async function serveWorld(outside: Netbed, scratch: string): Promise<AsyncDisposable> {
  const page = join(scratch, 'www');
  mkdirSync(page);
  writeFileSync(join(page, 'index.html'), '301 Moved\n');
  const httpd = ['busybox', 'httpd', '-f', '-p', `${world}:80`, '-h', page];
  const server = await launchService(['nsenter', `--net=/proc/${outside.pid}/ns/net`, '--', ...httpd]);
  return { [Symbol.asyncDispose]: async () => void (await server.stop({ graceMs: 200 })) };
}

export class OsCloudLab {
  readonly cloud: Cloud;
  readonly #scratch: string;

  /** `scratch`: a directory for keys. */
  constructor(cloud: Cloud, scratch: string) {
    this.cloud = cloud;
    this.#scratch = scratch;
  }

  /** Makes the key that `wanted` hands in and `ssh` uses. */
  async makeKey(): Promise<void> {
    const what = ['-q', '-t', 'ed25519', '-N', '', '-C', 'os-cloud-user'];
    await launch(['ssh-keygen', ...what, '-f', join(this.#scratch, 'key')]);
  }

  async get(path: string): Promise<string> {
    return (await fetch(this.cloud.osCloud + path)).text();
  }

  async post(path: string, body: unknown): Promise<string> {
    const response = await fetch(`${this.cloud.osCloud}/${path}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(300_000),
    });
    return response.text();
  }

  wanted(name: string, more: object = {}) {
    return {
      name,
      image: labImage,
      network: 'default',
      mem_size: '384M',
      disk_size: '4G',
      ssh_key: readFileSync(join(this.#scratch, 'key.pub'), 'utf8'),
      ...more,
    };
  }

  /** A command of the host in the network that the machines are in. */
  async #inFabric(command: readonly string[], input = ''): Promise<LaunchResult> {
    const { daemon = 0 } = this.cloud.pids();
    const argv: Argv = ['nsenter', `--net=/proc/${daemon}/ns/net`, '--', ...command];
    return launch(argv, { input, timeoutMs: 150_000 });
  }

  /** The lab's own way in: from where the machines are reached directly. */
  async #ssh(
    ip: string,
    options: readonly string[],
    input: string,
    command: readonly string[],
  ): Promise<LaunchResult> {
    const scratch = this.#scratch;
    const known = ['StrictHostKeyChecking=accept-new', `UserKnownHostsFile=${join(scratch, 'known')}`];
    const settings = ['BatchMode=yes', 'ConnectTimeout=10', ...known].flatMap((setting) => ['-o', setting]);
    const client = ['ssh', '-i', join(scratch, 'key'), ...settings, ...options, `root@${ip}`, ...command];
    return this.#inFabric(client, input);
  }

  /** The server for ssh comes up beside the rest: a machine that has answered may refuse a moment longer. */
  async login(
    ip: string,
    options: readonly string[],
    input: string,
    ...command: string[]
  ): Promise<LaunchResult> {
    return until(
      120_000,
      `ssh to ${ip}`,
      async () => {
        const result = await this.#ssh(ip, options, input, command);
        return result.status === 255 && /refused|timed out|No route/.test(result.stderr.toString())
          ? undefined
          : result;
      },
      { everyMs: 500 },
    );
  }

  async inside(ip: string, ...command: string[]): Promise<string> {
    const result = await this.login(ip, [], '', ...command);
    assert.equal(result.status, 0, result.stderr.toString());
    return result.stdout.toString();
  }

  /** Waits until a job is done. */
  async ended(job: string): Promise<void> {
    const { state, error } = await until(240_000, `job ${job}`, async () => {
      const seen = await this.cloud.admin.getJob({ params: { job }, query: { wait: 30 } });
      return seen.finishedAt === null ? undefined : seen;
    });
    assert.equal(state, 'done', JSON.stringify(error));
  }

  table(): Promise<OsCloudTables> {
    return this.cloud.admin.getOsCloudTables({ params: {} });
  }

  async killDaemon(): Promise<void> {
    const { daemon } = await this.cloud.untilWell();
    process.kill(daemon, 'SIGKILL');
    await until(
      20_000,
      'another daemon',
      async () => (await this.cloud.untilWell()).daemon !== daemon || undefined,
    );
  }

  /** The rules that let machines out. */
  async masquerades(): Promise<string[]> {
    const rules = await this.#inFabric(['nft', 'list', 'ruleset']);
    return rules.stdout
      .toString()
      .split('\n')
      .filter((line) => line.includes('masquerade'))
      .map((line) => line.trim());
  }

  async addresses(): Promise<string> {
    return (await this.#inFabric(['ip', '-4', 'addr'])).stdout.toString();
  }

  /** Somebody at a console. */
  reader(url: URL): { readonly stream: Stream; readonly seen: () => string } {
    let text = '';
    const stream = openStream({
      url,
      token: this.cloud.adminToken,
      from: 0,
      output: (bytes) => {
        text += Buffer.from(bytes).toString('latin1');
      },
    });
    return { stream, seen: () => text };
  }
}
