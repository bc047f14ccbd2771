/** Events as server-sent events (WHATWG HTML, 9.2): id is the sequence number, event is the kind. */
import type { Event } from '#contract/schemas/jobs.ts';
import type { EventFeed } from './feed.ts';
import type { EventFilter } from './visible.ts';

const nobody = (): void => undefined;

export interface EventStreamOptions {
  readonly feed: EventFeed;
  readonly filter: EventFilter;
  readonly after: number;
  readonly signal: AbortSignal;
  /** A comment this often keeps the connection from looking dead. */
  readonly pulseMs?: number;
  /** Who takes nothing for this long is disconnected; he comes back with Last-Event-ID. */
  readonly patienceMs?: number;
}

function block(event: Event): string {
  return `id: ${event.seq}\nevent: ${event.kind.replace(/[\r\n]/g, ' ')}\ndata: ${JSON.stringify(event)}\n\n`;
}

/** The stream; it ends with the signal, with the reader, or when the reader is too slow. */
export function eventStream({
  feed,
  filter,
  after,
  signal,
  pulseMs = 25_000,
  patienceMs = 30_000,
}: EventStreamOptions): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let position = after;
  let first = true;
  let wake = nobody;
  let news = true;
  let impatient: NodeJS.Timeout | undefined;
  const unwatch = feed.watch(() => {
    news = true;
    wake();
  });
  const stop = (): void => {
    clearTimeout(impatient);
    unwatch();
    signal.removeEventListener('abort', stop);
    wake();
  };
  signal.addEventListener('abort', stop, { once: true });

  /** The next piece of text; undefined when it is over. */
  const next = async (): Promise<string | undefined> => {
    if (first) {
      first = false;
      return `retry: 2000\nid: ${position}\n\n`;
    }
    for (;;) {
      if (signal.aborted) return undefined;
      if (news) {
        news = false;
        const page = await feed.read(filter, position);
        const moved = page.next > position;
        position = page.next;
        if (moved) news = true; // there may be more behind this page
        if (page.events.length > 0) return page.events.map(block).join('');
        if (moved) continue;
      }
      const { promise, resolve } = Promise.withResolvers<boolean>();
      wake = () => resolve(true);
      const timer = setTimeout(() => resolve(false), pulseMs);
      const woken = news || signal.aborted || (await promise);
      clearTimeout(timer);
      if (!woken) return `: ${position}\n\n`;
    }
  };

  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      clearTimeout(impatient);
      try {
        const text = await next();
        if (text === undefined) return controller.close();
        controller.enqueue(encoder.encode(text));
        // Taken by the connection as soon as its buffers have room; if nothing is taken, the reader is too slow.
        impatient = setTimeout(() => {
          stop();
          controller.error(new Error('the reader is too slow'));
        }, patienceMs + pulseMs).unref();
      } catch (error) {
        stop();
        controller.error(error);
      }
    },
    cancel: stop,
  });
}
