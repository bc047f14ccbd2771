/** Our terminal, given to a program elsewhere: raw keys, its size, and a key to leave, Ctrl-] unless told otherwise. */
import { CarrelError } from '#base/errors.ts';
import type { ProgramEnd } from '#contract/schemas/machines.ts';
import { openStream } from './stream.ts';

/** The key that leaves. It cannot be taken from us by the program. */
export interface EscapeKey {
  readonly byte: number;
  /** `Ctrl-]` */
  readonly name: string;
}

/** As telnet has it: rarely typed. */
const usualEscape: EscapeKey = { byte: 0x1d, name: 'Ctrl-]' };

/** `^]`, `^A`, `Ctrl-A`; `none` gives undefined: every key is the program's. */
export function parseEscape(text: string): EscapeKey | undefined {
  if (text === 'none') return undefined;
  const key = /^(?:\^|ctrl-)([a-z@[\\\]^_])$/i.exec(text)?.[1]?.toUpperCase();
  if (key === undefined)
    throw new CarrelError('invalid_request', `--escape wants a control key such as ^], or none, not ${text}`);
  return { byte: (key.codePointAt(0) ?? 0) & 0x1f, name: `Ctrl-${key}` };
}

/** What was typed before the escape key, and whether it was pressed. */
export function splitAtEscape(
  bytes: Uint8Array,
  escape: EscapeKey = usualEscape,
): { before: Uint8Array; left: boolean } {
  const at = bytes.indexOf(escape.byte);
  return at < 0 ? { before: bytes, left: false } : { before: bytes.subarray(0, at), left: true };
}

export interface TerminalOptions {
  readonly url: URL;
  readonly token?: string | undefined;
  readonly from?: number | undefined;
  readonly readOnly?: boolean;
  /** undefined: none. */
  readonly escape?: EscapeKey | undefined;
  /** Without a terminal on our side: bytes in, bytes out. */
  readonly raw?: boolean;
  readonly say: (text: string) => void;
}

/** Resolves with the program's end, or undefined if the user left. The terminal is as before, in every case. */
export async function runTerminal(
  options: TerminalOptions,
): Promise<{ end: ProgramEnd | undefined; left: boolean }> {
  const { url, token, from, readOnly = false, raw = process.stdin.isTTY, say } = options;
  const escape = 'escape' in options ? options.escape : usualEscape;
  let left = false;
  const stream = openStream({
    url,
    token,
    from,
    output: (bytes) =>
      new Promise<void>((resolve, reject) => {
        process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()));
      }),
    state: (state) =>
      say(
        state === 'lost'
          ? `\r\n[connection lost, trying again${escape ? `; ${escape.name} leaves` : ''}]`
          : '',
      ),
  });
  const onInput = (chunk: Buffer): void => {
    const { before, left: leave } =
      raw && escape ? splitAtEscape(chunk, escape) : { before: chunk, left: false };
    if (before.length > 0 && !readOnly) stream.input(before);
    if (!leave) return;
    left = true;
    stream.leave();
  };
  const onResize = (): void => {
    const { rows, columns } = process.stdout;
    if (process.stdout.isTTY && rows > 0 && columns > 0)
      stream.resize(Math.min(rows, 1000), Math.min(columns, 1000));
  };
  const onSignal = (): void => {
    left = true;
    stream.leave();
  };
  if (raw) process.stdin.setRawMode(true);
  process.stdin.on('data', onInput);
  process.stdout.on('resize', onResize);
  for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.on(signal, onSignal);
  try {
    onResize();
    return { end: await stream.ended, left };
  } finally {
    if (raw) process.stdin.setRawMode(false);
    process.stdin.off('data', onInput);
    process.stdin.pause();
    process.stdout.off('resize', onResize);
    for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.off(signal, onSignal);
  }
}

/** The size of our terminal, for a program's first look. */
export function terminalSize(): { rows: number; columns: number } {
  const { rows, columns } = process.stdout.isTTY ? process.stdout : { rows: 24, columns: 80 };
  return { rows: Math.min(Math.max(rows, 1), 1000), columns: Math.min(Math.max(columns, 1), 1000) };
}

/** A terminal is asked for where there is none. */
export function needTerminal(): void {
  if (!process.stdin.isTTY)
    throw new CarrelError('invalid_request', 'standard input is not a terminal', {
      hint: 'use carrel machine run, or leave -t out',
    });
}
