/**
 * QMP, the language of QEMU's monitor (docs/interop/qmp-spec.txt in its source): one JSON object per line. What comes
 * from QEMU is believed as little as what comes from its guest, which may have broken into it: lines have a limit,
 * answers must have the id that was asked with, every wait ends.
 */
import { connect, type Socket } from 'node:net';
import { z } from 'zod';
import { until, within } from '#base/deadline.ts';
import { CarrelError } from '#base/errors.ts';
import { tryLock } from '#host/flock.ts';
import { vmPaths } from './spec.ts';

/** The longest answer, that to query-named-block-nodes, has some KiB per layer of the disk. */
export const maxLineBytes = 4 * 2 ** 20;
/** Events, and answers to what has been given up, between two questions: more than that is a flood. */
export const maxUnaskedBytes = 256 * 2 ** 10;
/** A monitor that is not busy answers within milliseconds; a loaded host may be slow. */
const answerMs = 10_000;

const greeting = z.object({ QMP: z.object({ version: z.unknown() }) });
const failed = z.object({
  id: z.int().optional(),
  error: z.object({ class: z.string().max(100), desc: z.string() }),
});
const returned = z.object({ id: z.int(), return: z.unknown() });
const event = z.object({ event: z.string().max(100) });
const message = z.union([greeting, failed, returned, event]);
type Message = z.infer<typeof message>;

export interface Qmp {
  /** The command's answer, of the given shape; `helper_failed` when QEMU refuses it, with its words. */
  execute<T>(
    command: string,
    args: Readonly<Record<string, unknown>>,
    reply: z.ZodType<T>,
    options?: { readonly limitMs?: number },
  ): Promise<T>;
  close(): void;
}

/** For commands that answer with nothing. */
export const nothing = z.object({});
/** Of `query-status`: qapi/run-state.json, RunState. */
export const runState = z.object({ status: z.string().max(100) });

/** Cuts a stream into lines; feed it pieces of any size. Throws on a line over the limit. */
export function createLineDecoder({ maxBytes = maxLineBytes }: { maxBytes?: number } = {}): (
  chunk: Buffer,
) => Buffer[] {
  let held: Buffer[] = [];
  let size = 0;
  return (chunk) => {
    const lines: Buffer[] = [];
    let from = 0;
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      held.push(chunk.subarray(from, at));
      size += at - from;
      from = at + 1;
      if (size > maxBytes) break;
      lines.push(held.length === 1 ? (held[0] ?? chunk) : Buffer.concat(held));
      held = [];
      size = 0;
    }
    if (from < chunk.length) held.push(chunk.subarray(from));
    size += chunk.length - from;
    if (size > maxBytes)
      throw new CarrelError('helper_failed', `QEMU sent a line of more than ${maxBytes} bytes`);
    return lines;
  };
}

/** One line as a message; `helper_failed` for anything else. */
export function parseLine(line: Buffer): Message {
  let value: unknown;
  try {
    value = JSON.parse(line.toString());
  } catch (error) {
    throw new CarrelError('helper_failed', 'QEMU sent a line that is not JSON', { cause: error });
  }
  const parsed = message.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new CarrelError('helper_failed', 'QEMU sent an unknown message', { cause: parsed.error });
}

interface Waiter {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

class Monitor implements Qmp {
  readonly #socket: Socket;
  readonly #waiting = new Map<number, Waiter>();
  readonly #greeted = Promise.withResolvers<void>();
  #next = 1;
  #unasked = 0;
  #over: Error | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#greeted.promise.catch(() => undefined);
    const decode = createLineDecoder();
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const line of decode(chunk)) {
          if (this.#over) return;
          this.#take(parseLine(line), line.length);
        }
      } catch (error) {
        this.#end(error instanceof Error ? error : new Error(String(error)));
      }
    });
    socket.on('error', (cause) => this.#end(gone(cause)));
    socket.on('close', () => this.#end(gone()));
  }

  get greeted(): Promise<void> {
    return this.#greeted.promise;
  }

  #end(error: Error): void {
    if (this.#over) return;
    this.#over = error;
    this.#socket.destroy();
    this.#greeted.reject(error);
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }

  #take(said: Message, bytes: number): void {
    if ('QMP' in said) this.#greeted.resolve();
    const id = 'return' in said || 'error' in said ? (said.id ?? -1) : -1;
    const waiter = this.#waiting.get(id);
    this.#waiting.delete(id);
    // an answer to a question that has been given up is no error
    if (!waiter) this.#unasked += bytes;
    if (this.#unasked > maxUnaskedBytes)
      throw new CarrelError('helper_failed', 'QEMU says too much that nobody asked');
    if ('QMP' in said || 'event' in said) return undefined;
    if ('return' in said) return waiter?.resolve(said.return);
    const { class: kind, desc } = said.error;
    waiter?.reject(
      new CarrelError('helper_failed', `QEMU refuses: ${desc.slice(0, 500)}`, { details: { class: kind } }),
    );
  }

  async execute<T>(
    command: string,
    args: Readonly<Record<string, unknown>>,
    reply: z.ZodType<T>,
    { limitMs = answerMs }: { readonly limitMs?: number } = {},
  ): Promise<T> {
    if (this.#over) throw this.#over;
    const id = this.#next++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    promise.catch(() => undefined);
    this.#waiting.set(id, { resolve, reject });
    this.#unasked = 0;
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    try {
      const value = await within(limitMs, `QEMU's answer to ${command}`, promise);
      const parsed = reply.safeParse(value);
      if (parsed.success) return parsed.data;
      throw new CarrelError('helper_failed', `QEMU's answer to ${command} makes no sense`, {
        cause: parsed.error,
      });
    } finally {
      this.#waiting.delete(id);
    }
  }

  close(): void {
    this.#end(gone());
  }
}

function gone(cause?: unknown): CarrelError {
  return new CarrelError('machine_lost', 'the connection to QEMU has ended', { cause });
}

/** Connects and agrees on the language. QEMU serves one client at a time: see `withQmp`. */
export async function connectQmp(path: string, { limitMs = answerMs } = {}): Promise<Qmp> {
  const end = performance.now() + limitMs;
  const monitor = new Monitor(connect(path));
  try {
    await within(limitMs, 'QEMU to greet', monitor.greeted);
    await monitor.execute('qmp_capabilities', {}, nothing, { limitMs: Math.max(1, end - performance.now()) });
    return monitor;
  } catch (error) {
    monitor.close();
    throw error;
  }
}

/**
 * Speaks with the QEMU of a machine for as long as `work` takes. Who comes second, also in another process, waits his
 * turn: so keep it short.
 */
export async function withQmp<T>(
  directory: string,
  work: (qmp: Qmp) => Promise<T>,
  { limitMs = answerMs }: { readonly limitMs?: number } = {},
): Promise<T> {
  const { qmp: socket, qmpLock } = vmPaths(directory);
  using _turn = await until(limitMs, 'others to have spoken with QEMU', () => tryLock(qmpLock), {
    everyMs: 5,
  });
  const qmp = await connectQmp(socket, { limitMs });
  try {
    return await work(qmp);
  } finally {
    qmp.close();
  }
}
