/**
 * One WebSocket that follows a session. It is sent events as fast as it reads, and no faster: what it has not read
 * stays in the log that all readers share. Whoever falls behind what the log keeps is told how much was lost.
 */
import type { WebSocket } from 'ws';
import { z } from 'zod';
import { CarrelError, messageOf } from '#base/errors.ts';
import type { EventLog } from './log.ts';
import { type Command, type Message, request } from './messages.ts';

/** Bytes of events that may wait in a socket. */
const mostWaiting = 256 * 1024;
/** Bytes of replies beside them: who asks and asks and does not read is sent away. */
const mostReplies = 8 * 2 ** 20;

/** What is wrong otherwise may still have an id, under which that is said. */
const numbered = z.looseObject({ id: z.int().min(0) });

export function problemOf(error: unknown): { code: string; detail: string; hint?: string } {
  if (!(error instanceof CarrelError)) return { code: 'internal', detail: messageOf(error) };
  return { code: error.code, detail: error.message, ...(error.hint !== undefined && { hint: error.hint }) };
}

export class Reader {
  readonly #socket: WebSocket;
  readonly #log: EventLog;
  #next: number;

  /** From event `next` on, or the oldest that is kept. */
  constructor(socket: WebSocket, { log, next }: { log: EventLog; next: number }) {
    this.#socket = socket;
    this.#log = log;
    const from = Math.max(next, log.first);
    this.#next = Math.min(from, log.next);
    this.say({ hello: { next: this.#next, lost: from - next } });
    this.pump();
  }

  /** Sends what is there, up to what may wait; goes on by itself when that was read. */
  pump(): void {
    while (this.#socket.readyState === this.#socket.OPEN && this.#socket.bufferedAmount < mostWaiting) {
      const lost = this.#log.first - this.#next;
      if (lost > 0) {
        this.#next = this.#log.first;
        this.say({ lost });
      }
      const entry = this.#log.at(this.#next);
      if (!entry) return;
      this.#next += 1;
      // the callback comes when the kernel has taken it: then there may be room again
      this.#socket.send(entry.text, () => {
        if (this.#socket.bufferedAmount < mostWaiting / 2) this.pump();
      });
    }
  }

  say(message: Message): void {
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    if (this.#socket.bufferedAmount > mostReplies) this.#socket.terminate();
    else this.#socket.send(JSON.stringify(message));
  }

  /** A message of the reader: its command is carried out, and answered under its id. */
  async hear(text: string, obey: (command: Command) => Promise<unknown>): Promise<void> {
    let id: number | null = null;
    try {
      const json = parseJson(text);
      id = numbered.safeParse(json).data?.id ?? null;
      const wanted = request.safeParse(json);
      if (!wanted.success)
        throw new CarrelError('invalid_request', `not a command: ${wanted.error.issues[0]?.message ?? ''}`);
      this.say({ id, result: (await obey(wanted.data.command)) ?? null });
    } catch (error) {
      this.say({ id, problem: problemOf(error) });
    }
  }
}

/** undefined is no command: the schema says so. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
