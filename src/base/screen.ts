/** The text of a terminal as it comes in, and waiting for something in it. */

/** What a screen needs of a terminal. */
export interface ScreenSource {
  /** What is kept from an absolute offset on, at most `maxBytes`; `total` bytes have come so far. */
  read(
    from: number,
    maxBytes?: number,
  ): { readonly from: number; readonly bytes: Uint8Array; readonly total: number };
  /** Calls back after output has grown; returns how to stop listening. */
  watch(changed: () => void): () => void;
  write(bytes: Uint8Array): Promise<void>;
}

/** What was on the screen before we came: enough for a prompt. */
const tailBytes = 2000;

/** A guest that writes without end does not make us look without end. */
const lookMs = 10;

export interface Screen extends Disposable {
  /** Everything since `forget`, as latin1: one character per byte. */
  readonly text: string;
  /** What is said from now on. */
  forget(): void;
  /** The value that `find` gives once it gives one, or undefined after so many ms. */
  wait<T>(ms: number, find: (text: string) => T | undefined): Promise<T | undefined>;
  /** Up to the silence: nothing has come for so many ms, or `maxMs` are over. */
  quiet(ms: number, maxMs: number): Promise<void>;
  type(text: string): Promise<void>;
}

/** `maxBytes`: of text that is kept; of more the end. `signal` ends every wait with its reason. */
export function openScreen(
  terminal: ScreenSource,
  { maxBytes, signal }: { maxBytes: number; signal?: AbortSignal | undefined },
): Screen {
  let at = Math.max(0, terminal.read(0, 1).total - tailBytes);
  let text = '';
  const waiting = new Set<() => void>();
  const pull = (): void => {
    for (;;) {
      const { from, bytes } = terminal.read(at);
      if (bytes.length === 0) break;
      at = from + bytes.length;
      text = (text + Buffer.from(bytes).toString('latin1')).slice(-maxBytes);
    }
  };
  let later: NodeJS.Timeout | undefined;
  const see = (): void => {
    later = undefined;
    pull();
    for (const wake of waiting) wake();
  };
  const stop = terminal.watch(() => {
    later ??= setTimeout(see, lookMs);
  });
  pull();
  const wait = async <T>(ms: number, find: (seen: string) => T | undefined): Promise<T | undefined> =>
    await new Promise<T | undefined>((resolve, reject) => {
      const settle = (act: () => void): void => {
        clearTimeout(timer);
        waiting.delete(look);
        signal?.removeEventListener('abort', cancel);
        act();
      };
      const look = (): void => {
        try {
          const value = find(text);
          if (value !== undefined) settle(() => resolve(value));
        } catch (error) {
          settle(() => reject(error));
        }
      };
      const cancel = (): void => settle(() => reject(signal?.reason));
      const timer = setTimeout(() => settle(() => resolve(undefined)), ms);
      waiting.add(look);
      if (signal?.aborted) return cancel();
      signal?.addEventListener('abort', cancel, { once: true });
      look();
    });
  return {
    get text() {
      return text;
    },
    forget() {
      pull();
      text = '';
    },
    wait,
    async quiet(ms, maxMs) {
      const end = performance.now() + maxMs;
      for (let before = at; performance.now() < end; before = at) {
        const seen = before;
        if ((await wait(ms, () => (at === seen ? undefined : true))) === undefined) return;
      }
    },
    type: (typed) => terminal.write(Buffer.from(typed)),
    [Symbol.dispose]() {
      clearTimeout(later);
      stop();
    },
  };
}

// oxlint-disable-next-line no-control-regex -- these are control sequences (ECMA-48)
const escapes = /\u001b(\[[0-9;?]*[ -/]*[@-~]|\][^\u0007]*\u0007|[()][0-9A-B]|[=>78])/g;

/** A guest chooses what is on the screen, and how much: no pattern is looked for in more of it. */
export const endLength = 2000;

/** The end of the screen as a person sees it. */
export const shownEnd = (text: string): string => text.slice(-endLength).replace(escapes, '');
