/** What the agent in a guest can be asked for. It is convenience: what it says is never trusted. */
import type { RunReply, RunRequest } from '#contract/schemas/machines.ts';
import type { ExecRequest, FileRead, Terminal } from '../../../driver.ts';
import type { Identity } from '../identity.ts';

export interface AgentUsage {
  readonly memoryBytes: number;
  readonly memoryAvailableBytes: number;
  /** Of the root file system. */
  readonly diskBytes: number;
  readonly diskUsedBytes: number;
  readonly processes: number;
}

/**
 * Every request has a limit of its own, and fails with
 * - `deadline_exceeded`: no answer in time (the connection is tested then, and opened anew if it is dead);
 * - `machine_lost`: the connection ended, or the agent does not speak its protocol;
 * - `invalid_request`, `not_found`, `too_large`, `disk_full`, ...: what the guest's kernel said.
 *
 * A lost connection is opened again by the next request. Programs that were being waited for are killed by the
 * agent then; kept ones go on.
 */
export interface Agent {
  /** Differs after every boot of the guest; of the connection that is open now. */
  readonly bootId: string;
  ping(options: { limitMs: number }): Promise<void>;
  run(request: RunRequest, options?: { signal?: AbortSignal }): Promise<RunReply>;
  /** Starts a program that outlives us in the guest; `wrong_state` when one with this id is there already. */
  startKept(id: string, request: ExecRequest): Promise<void>;
  /** Opens its terminal, running or ended; everything that is kept has been fetched when this resolves. */
  attachKept(id: string): Promise<Terminal>;
  /** Kills it if it runs, and throws away its output. Nothing happens if there is none. */
  dropKept(id: string): Promise<void>;
  readFile(path: string, options: { maxBytes: number }): Promise<FileRead>;
  /** Old or new content, never half of it. Its directory must be there. */
  writeFile(path: string, bytes: Uint8Array, options: { mode: number }): Promise<void>;
  /** Everything at once, with the host's clock and fresh entropy; ssh is restarted with the new keys. */
  identify(identity: Identity): Promise<void>;
  /** To the host's: a guest whose processors were stopped is as much behind. */
  setClock(options: { limitMs: number }): Promise<void>;
  /** Root's password as crypt(5) writes it. */
  setPassword(hash: string): Promise<void>;
  /** The root file system, to the end of the disk. */
  growRoot(): Promise<void>;
  /** Everything written so far reaches the disk. */
  sync(options?: { limitMs: number }): Promise<void>;
  /** In the init system's order; `now`: file systems are made read-only, and the power goes off. */
  powerOff(options?: { now?: boolean }): Promise<void>;
  usage(): Promise<AgentUsage>;
  close(): void;
  /** Resolves after `close`, and when a lost connection cannot be opened again: the machine has ended. */
  readonly closed: Promise<void>;
}

export interface ConnectOptions {
  readonly limitMs: number;
  readonly signal?: AbortSignal | undefined;
}
