/** The agent of one machine, over whatever connection there is at the time. */
import { randomBytes } from 'node:crypto';
import { CarrelError } from '#base/errors.ts';
import type { RunReply, RunRequest } from '#contract/schemas/machines.ts';
import type { ExecRequest, FileRead, Terminal } from '../../../driver.ts';
import type { Identity } from '../identity.ts';
import type { Agent, AgentUsage, ConnectOptions } from './agent.ts';
import { doneOnly, exchange, unexpected } from './exchange.ts';
import { readGuestFile, writeGuestFile } from './files.ts';
import { encodeClock, encodeIdentity, encodePassword } from './identify.ts';
import { attachTerminal, type LinkSource } from './kept.ts';
import { isGone, type Link, openLink } from './link.ts';
import { payload, reading } from './payload.ts';
import { encodeKeep } from './program.ts';
import { runProgram } from './run.ts';
import { ask, type Ask, tell } from './wire.ts';

/** For a connection that has to be opened again. */
const reconnectMs = 10_000;
const shortMs = 10_000;
/** The agent gives its own jobs 30 s. */
const jobMs = 40_000;
const entropyBytes = 64;

class AgentClient implements Agent, LinkSource {
  readonly closed: Promise<void>;
  readonly #path: string;
  #link: Link;
  #alive = true;
  #opening: Promise<Link> | undefined;
  #isClosed = false;
  #close: () => void = () => undefined;

  constructor(path: string, link: Link) {
    this.#path = path;
    this.#link = link;
    this.closed = new Promise((resolve) => {
      this.#close = resolve;
    });
    this.#follow(link);
  }

  get bootId(): string {
    return this.#link.bootId;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  #follow(link: Link): void {
    this.#link = link;
    this.#alive = true;
    void link.ended.then(async () => {
      this.#alive = false;
      // so that the end of the machine is noticed though nobody asks anything; a keeper may hold the dead one's socket
      if (!this.#isClosed) await this.link().catch(() => this.#finish());
    });
  }

  /** The open connection, or a new one. */
  async link(): Promise<Link> {
    if (this.#isClosed)
      throw new CarrelError('machine_lost', "the connection to the machine's agent is closed");
    if (this.#alive) return this.#link;
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    return await this.#opening;
  }

  async #open(): Promise<Link> {
    try {
      const link = await openLink(this.#path, { limitMs: reconnectMs });
      this.#follow(link);
      if (this.#isClosed) this.close();
      return link;
    } catch (error) {
      if (isGone(error)) this.#finish();
      throw error;
    }
  }

  #finish(): void {
    this.#isClosed = true;
    this.#close();
  }

  async #ask(type: Ask, what: string, content?: Uint8Array, limitMs = shortMs): Promise<void> {
    const request = { type, what, limitMs, answer: doneOnly };
    await exchange(await this.link(), content ? { ...request, payload: content } : request);
  }

  async ping({ limitMs }: { limitMs: number }): Promise<void> {
    await this.#ask(ask.ping, "the machine's agent", undefined, limitMs);
  }

  async run(request: RunRequest, { signal }: { signal?: AbortSignal } = {}): Promise<RunReply> {
    return await runProgram(await this.link(), request, signal);
  }

  async startKept(id: string, request: ExecRequest): Promise<void> {
    await this.#ask(ask.keep, `${request.argv[0]} cannot be run in the machine`, encodeKeep(id, request));
  }

  attachKept(id: string): Promise<Terminal> {
    return attachTerminal(id, this);
  }

  async dropKept(id: string): Promise<void> {
    await this.#ask(ask.drop, `the program ${id} cannot be dropped`, payload().text(id).done());
  }

  async readFile(path: string, options: { maxBytes: number }): Promise<FileRead> {
    return await readGuestFile(await this.link(), path, options);
  }

  async writeFile(path: string, bytes: Uint8Array, options: { mode: number }): Promise<void> {
    await writeGuestFile(await this.link(), path, bytes, options);
  }

  async identify(identity: Identity): Promise<void> {
    const facts = encodeIdentity(identity, { nowMs: Date.now(), entropy: randomBytes(entropyBytes) });
    await this.#ask(ask.identify, 'the machine cannot be given its identity', facts, jobMs);
  }

  async setClock({ limitMs }: { limitMs: number }): Promise<void> {
    await this.#ask(ask.identify, "the machine's clock cannot be set", encodeClock(Date.now()), limitMs);
  }

  async setPassword(hash: string): Promise<void> {
    await this.#ask(ask.identify, "root's password cannot be set", encodePassword(hash), jobMs);
  }

  async growRoot(): Promise<void> {
    await this.#ask(ask.grow, 'the root file system cannot grow', undefined, jobMs);
  }

  async sync({ limitMs }: { limitMs: number } = { limitMs: jobMs }): Promise<void> {
    await this.#ask(ask.sync, "the machine's disk cannot be brought up to date", undefined, limitMs);
  }

  async powerOff({ now = false }: { now?: boolean } = {}): Promise<void> {
    const order = payload()
      .u8(0)
      .u8(now ? 1 : 0)
      .done();
    await this.#ask(ask.power, 'the machine cannot be switched off', order);
  }

  async usage(): Promise<AgentUsage> {
    return await exchange<AgentUsage>(await this.link(), {
      type: ask.usage,
      what: 'what the machine uses',
      limitMs: shortMs,
      answer(type, bytes) {
        if (type !== tell.done) throw unexpected(type);
        const from = reading(bytes);
        return {
          value: {
            memoryBytes: from.u64(),
            memoryAvailableBytes: from.u64(),
            diskBytes: from.u64(),
            diskUsedBytes: from.u64(),
            processes: from.u64(),
          },
        };
      },
    });
  }

  close(): void {
    this.#finish();
    this.#link.destroy(
      new CarrelError('machine_lost', "the connection to the machine's agent was closed here"),
    );
  }
}

/**
 * Connects to the agent behind a unix socket (QEMU's end of the port), as soon as it answers.
 *
 * @example
 * const agent = await connectAgent(vmPaths(directory).agent, { limitMs: 60_000 });
 * await agent.ping({ limitMs: 1000 });
 */
export async function connectAgent(path: string, options: ConnectOptions): Promise<Agent> {
  return new AgentClient(path, await openLink(path, options));
}
