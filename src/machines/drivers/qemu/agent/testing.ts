/** An agent of this machine for tests, without a virtual machine around it: it may change nothing here. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { until } from '#base/deadline.ts';
import { runRequest, type RunRequest } from '#contract/schemas/machines.ts';
import { launchService } from '#host/launch.ts';
import type { Agent } from './agent.ts';
import { connectAgent } from './client.ts';

const build = join(import.meta.dirname, '../../../../../build');

export const agentBinary: string = join(build, 'agent');
/** Only where `make sanitize` was run. */
export const agentSanitized: string = join(build, 'agent-asan');

export const skip: string | false = existsSync(agentBinary) ? false : 'needs the native build';

export interface AgentBed extends AsyncDisposable {
  readonly directory: string;
  readonly socket: string;
  /** Identities are written below it. */
  readonly root: string;
  readonly pid: number;
  readonly agent: Agent;
}

export async function startAgent(binary: string = agentBinary): Promise<AgentBed> {
  const directory = mkdtempSync(join(tmpdir(), 'carrel-agent-'));
  const socket = join(directory, 'agent.sock');
  const service = await launchService([binary, '--foreground', socket, '--root', directory], {
    ready: () => until(5000, 'the agent to listen', () => (existsSync(socket) ? true : undefined)),
  });
  // the socket is there a moment before it listens
  const agent = await until(5000, 'the agent to answer', () =>
    connectAgent(socket, { limitMs: 10_000 }).catch(() => undefined),
  );
  return {
    directory,
    socket,
    root: directory,
    pid: service.identity.pid,
    agent,
    async [Symbol.asyncDispose]() {
      agent.close();
      await service.stop({ graceMs: 1000 });
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A run with the defaults of the API. */
export function request(argv: readonly string[], more: Partial<RunRequest> = {}): RunRequest {
  return runRequest.parse({ argv: [...argv], cwd: '/', ...more });
}

/** Standard output of a shell script. */
export async function shell(agent: Agent, script: string, more: Partial<RunRequest> = {}): Promise<string> {
  const { stdout } = await agent.run(request(['/bin/sh', '-c', script], more));
  return Buffer.from(stdout, 'base64').toString();
}
