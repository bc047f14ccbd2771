/** A program that goes on in the guest without us, as a terminal. */
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { sleep, within } from '#base/deadline.ts';
import type { ProgramEnd } from '#contract/schemas/machines.ts';
import type { Terminal } from '../../../driver.ts';
import { failureOf } from './failures.ts';
import { unexpected } from './exchange.ts';
import type { Channel, Link } from './link.ts';
import { payload, reading } from './payload.ts';
import { endedOf } from './program.ts';
import { createTranscript } from './transcript.ts';
import { ask, inputWindowBytes, maxPayloadBytes, tell } from './wire.ts';

const windowBytes = 512 << 10;
/** Everything that is kept, from a busy guest. */
const attachMs = 20_000;
/** A program that does not read its terminal for so long takes no more input. */
const writeMs = 10_000;
const firstPauseMs = 50;
const longestPauseMs = 2000;

/** Where links come from; throws when there will be none any more. */
export interface LinkSource {
  link(): Promise<Link>;
  readonly isClosed: boolean;
}

class KeptTerminal implements Terminal {
  end: ProgramEnd | undefined;
  readonly #id: string;
  readonly #source: LinkSource;
  readonly #transcript = createTranscript();
  readonly #watchers = new Set<() => void>();
  #channel: Channel | undefined;
  #closed = false;
  #inputRoom = 0;
  #roomChanged: (() => void)[] = [];

  constructor(id: string, source: LinkSource) {
    this.#id = id;
    this.#source = source;
  }

  #changed(): void {
    for (const watcher of this.#watchers) watcher();
  }

  #wakeWriters(): void {
    const waiting = this.#roomChanged;
    this.#roomChanged = [];
    for (const wake of waiting) wake();
  }

  /** Resolves when everything that was there at this time has come. */
  async attach(): Promise<void> {
    const link = await this.#source.link();
    if (this.#closed) return;
    const attached = new Promise<void>((resolve, reject) => this.#listen(link, { resolve, reject }));
    try {
      await within(attachMs, `the output of ${this.#id}`, attached);
    } catch (error) {
      this.#channel?.close();
      throw error;
    }
  }

  #listen(link: Link, promise: { resolve: () => void; reject: (error: CarrelError) => void }): void {
    let credit = windowBytes;
    let target: number | undefined;
    const arrived = (): void => {
      if (target !== undefined && this.#transcript.total >= target) promise.resolve();
    };
    this.#inputRoom = inputWindowBytes;
    const request = payload().text(this.#id).u64(this.#transcript.total).u32(credit).done();
    const channel = link.request(ask.attach, request, {
      frame: (type, bytes) => {
        const from = reading(bytes);
        switch (type) {
          case tell.attached:
            target = from.u64();
            return arrived();
          case tell.record: {
            const offset = from.u64();
            const data = from.rest();
            credit -= data.length;
            if (credit < 0 || data.length === 0) throw unexpected(type);
            this.#transcript.add(offset, data);
            if (credit <= windowBytes / 2) {
              channel.send(
                ask.credit,
                payload()
                  .u32(windowBytes - credit)
                  .done(),
              );
              credit = windowBytes;
            }
            arrived();
            return this.#changed();
          }
          case tell.taken:
            this.#inputRoom = Math.min(inputWindowBytes, this.#inputRoom + from.u32());
            return this.#wakeWriters();
          case tell.ended:
            this.#finish(endedOf(bytes).end);
            return promise.resolve();
          case tell.failed: {
            channel.close();
            const failure = failureOf(bytes, `the output of ${this.#id} cannot be had`);
            promise.reject(
              isCarrelError(failure, 'not_found')
                ? new CarrelError('gone', `the output of ${this.#id} is not kept any more`)
                : failure,
            );
            // dropped while we looked on
            if (target !== undefined) this.#finish({ kind: 'killed', reason: 'cancelled' });
            return undefined;
          }
          default:
            throw unexpected(type);
        }
      },
      lost: (error) => {
        const wasAttached = target !== undefined;
        promise.reject(error);
        if (wasAttached && !this.#closed && !this.end) void this.#again();
      },
    });
    this.#channel = channel;
  }

  #finish(end: ProgramEnd): void {
    this.end ??= end;
    this.#channel?.close();
    this.#wakeWriters();
    this.#changed();
  }

  /** The connection was lost; the program goes on, unless the machine has started anew. */
  async #again(): Promise<void> {
    for (let pause = firstPauseMs; !this.#closed && !this.#source.isClosed;) {
      try {
        return await this.attach();
      } catch (error) {
        if (isCarrelError(error, 'gone')) break;
      }
      await sleep(pause);
      pause = Math.min(2 * pause, longestPauseMs);
    }
    if (!this.#closed) this.#finish({ kind: 'killed', reason: 'cancelled' });
  }

  read(from: number, maxBytes?: number): ReturnType<Terminal['read']> {
    return this.#transcript.read(from, maxBytes);
  }

  watch(changed: () => void): () => void {
    this.#watchers.add(changed);
    return () => void this.#watchers.delete(changed);
  }

  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      if (this.end || this.#closed) throw new CarrelError('gone', 'the program has ended');
      if (this.#inputRoom <= 0) {
        const room = new Promise<void>((resolve) => this.#roomChanged.push(resolve));
        await within(writeMs, 'the program to read its terminal', room);
        continue;
      }
      const piece = bytes.subarray(at, at + Math.min(this.#inputRoom, maxPayloadBytes));
      this.#inputRoom -= piece.length;
      at += piece.length;
      this.#channel?.send(ask.input, piece);
    }
  }

  resize({ rows, columns }: { rows: number; columns: number }): Promise<void> {
    this.#channel?.send(ask.resize, payload().u16(rows).u16(columns).done());
    return Promise.resolve();
  }

  close(): void {
    this.#closed = true;
    this.#channel?.close();
    this.#watchers.clear();
    this.#wakeWriters();
  }
}

/** `gone` when there is no such program, or its output was thrown away. */
export async function attachTerminal(id: string, source: LinkSource): Promise<Terminal> {
  const terminal = new KeptTerminal(id, source);
  await terminal.attach();
  return terminal;
}
