/**
 * Consoles and programs as many people see them: any number of readers, each at its own absolute offset, and
 * one writer, with hand-over.
 *
 * Readers do not hold queues here. Each reads from the transcript that the keeper records, at its own pace; a
 * reader who falls so far behind that his next byte is no longer kept is dropped with `gone` and may come back
 * with `from`. So a slow reader costs no memory and holds up nobody.
 */
import { CarrelError } from '#base/errors.ts';
import type { StreamStatus } from '#contract/stream.ts';
import type { Terminal, TerminalSize } from './driver.ts';

/** What a reader gets: bytes with the offset of the first one, or news about the stream. */
export type StreamMessage =
  | { readonly kind: 'output'; readonly from: number; readonly bytes: Uint8Array }
  | { readonly kind: 'status'; readonly status: StreamStatus };

export interface AttachOptions extends Partial<TerminalSize> {
  /** Absolute offset of the first byte wanted; by default a screenful or two of what was there before. */
  readonly from?: number | undefined;
  readonly signal?: AbortSignal;
}

export interface Attachment extends AsyncIterable<StreamMessage>, Disposable {
  readonly isWriter: boolean;
  /** Becomes the writer; whoever was it is told. */
  takeWriter(): void;
  /** Input; refused unless this is the writer. */
  write(bytes: Uint8Array): Promise<void>;
  /** The size of the terminal is the writer's: other readers' are ignored. */
  resize(size: TerminalSize): Promise<void>;
  close(): void;
}

export interface Streams {
  /** `key` names the terminal; `open` is called if nobody is attached to it yet. */
  attach(key: string, open: () => Promise<Terminal>, options?: AttachOptions): Promise<Attachment>;
  close(): void;
}

/** Bytes given to a new reader who names no offset. */
const defaultTail = 64 * 2 ** 10;
/** Bytes per message: small enough that a WebSocket stays fair. */
const chunkBytes = 32 * 2 ** 10;
/** One write: more than a person types, enough for a paste. */
export const maxInputBytes = 64 * 2 ** 10;
/** Readers of one terminal: each costs a wake-up per output. */
const maxReaders = 100;

interface Reader {
  wake(): void;
  told(status: StreamStatus): void;
}

interface Shared {
  readonly terminal: Terminal;
  readonly readers: Set<Reader>;
  readonly unwatch: () => void;
  writer: Reader | undefined;
}

async function share(open: () => Promise<Terminal>): Promise<Shared> {
  const terminal = await open();
  const readers = new Set<Reader>();
  const unwatch = terminal.watch(() => {
    for (const reader of readers) reader.wake();
  });
  return { terminal, readers, unwatch, writer: undefined };
}

export function openStreams(): Streams {
  const shared = new Map<string, Promise<Shared>>();

  const leave = (key: string, one: Shared, reader: Reader): void => {
    if (!one.readers.delete(reader)) return;
    if (one.writer === reader) one.writer = undefined;
    if (one.readers.size > 0) return;
    shared.delete(key);
    one.unwatch();
    one.terminal.close();
  };

  return {
    async attach(key, open, { from, rows, columns, signal } = {}) {
      const pending = shared.get(key) ?? share(open);
      shared.set(key, pending);
      let one: Shared;
      try {
        one = await pending;
      } catch (error) {
        if (shared.get(key) === pending) shared.delete(key);
        throw error;
      }
      if (one.readers.size >= maxReaders)
        throw new CarrelError('no_capacity', `${maxReaders} readers are attached already`);
      const attachment = attachTo(one, from, (reader) => leave(key, one, reader));
      signal?.addEventListener('abort', () => attachment.close(), { once: true });
      if (one.writer === undefined) attachment.takeWriter();
      if (attachment.isWriter && rows !== undefined && columns !== undefined)
        await attachment.resize({ rows, columns });
      return attachment;
    },
    close() {
      for (const pending of shared.values())
        void pending.then(
          (one) => {
            one.unwatch();
            one.terminal.close();
          },
          () => undefined,
        );
      shared.clear();
    },
  };
}

function attachTo(one: Shared, wanted: number | undefined, left: (reader: Reader) => void): Attachment {
  const { terminal } = one;
  const news: StreamStatus[] = [];
  const gone = new AbortController();
  let wake: (() => void) | undefined;
  const reader: Reader = {
    wake: () => wake?.(),
    told(status) {
      news.push(status);
      wake?.();
    },
  };
  one.readers.add(reader);

  const close = (): void => {
    if (gone.signal.aborted) return;
    gone.abort();
    left(reader);
    wake?.();
  };

  async function* messages(): AsyncGenerator<StreamMessage, void> {
    try {
      const { total } = terminal.read(0, 0);
      const first = terminal.read(Math.min(wanted ?? Math.max(0, total - defaultTail), total), chunkBytes);
      yield { kind: 'status', status: { from: first.from, writer: one.writer === reader } };
      news.length = 0;
      let at = first.from;
      while (!gone.signal.aborted) {
        const changed = new Promise<void>((resolve) => {
          wake = resolve;
        }); // before reading: no wake-up is lost
        for (let status = news.shift(); status; status = news.shift()) yield { kind: 'status', status };
        const { end } = terminal; // before reading: after the end there is no more output
        const { from, bytes } = terminal.read(at, chunkBytes);
        if (from > at)
          throw new CarrelError(
            'gone',
            `output ${at} to ${from} is no longer kept: the reader was too slow`,
            {
              hint: `attach again with from=${from}`,
              details: { from },
            },
          );
        if (bytes.length > 0) {
          at += bytes.length;
          yield { kind: 'output', from, bytes };
        } else if (end) {
          yield { kind: 'status', status: { end } };
          return;
        } else await changed;
      }
    } finally {
      close();
    }
  }
  const iterator = messages();

  const requireWriter = (): void => {
    if (gone.signal.aborted) throw new CarrelError('gone', 'this attachment is closed');
    if (one.writer !== reader)
      throw new CarrelError('wrong_state', 'somebody else is writing to this terminal', {
        hint: 'take over with the write channel: {"take": true}',
      });
  };

  return {
    get isWriter() {
      return one.writer === reader;
    },
    takeWriter() {
      if (gone.signal.aborted || one.writer === reader) return;
      one.writer?.told({ writer: false });
      one.writer = reader;
      reader.told({ writer: true });
    },
    async write(bytes) {
      requireWriter();
      if (bytes.length > maxInputBytes)
        throw new CarrelError('too_large', `at most ${maxInputBytes} bytes of input at a time`);
      await terminal.write(bytes);
    },
    async resize(size) {
      if (!gone.signal.aborted && one.writer === reader) await terminal.resize(size);
    },
    close,
    [Symbol.dispose]: close,
    [Symbol.asyncIterator]: () => iterator,
  };
}
