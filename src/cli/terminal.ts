/** Our terminal, given to a program elsewhere: raw keys, its size, and Ctrl-] to leave. */
import { CarrelError } from '#base/errors.ts';
import type { ProgramEnd } from '#contract/schemas/machines.ts';
import { openStream } from './stream.ts';

/** Ctrl-], as telnet has it: rarely typed, and it cannot be taken from us by the program. */
export const escapeByte = 0x1d;

/** What was typed before the escape key, and whether it was pressed. */
export function splitAtEscape(bytes: Uint8Array): { before: Uint8Array; left: boolean } {
  const at = bytes.indexOf(escapeByte);
  return at < 0 ? { before: bytes, left: false } : { before: bytes.subarray(0, at), left: true };
}

export interface TerminalOptions {
  readonly url: URL;
  readonly token?: string | undefined;
  readonly from?: number | undefined;
  readonly readOnly?: boolean;
  /** Without a terminal on our side: bytes in, bytes out. */
  readonly raw?: boolean;
  readonly say: (text: string) => void;
}

/** Resolves with the program's end, or undefined if the user left. The terminal is as before, in every case. */
export async function runTerminal(
  options: TerminalOptions,
): Promise<{ end: ProgramEnd | undefined; left: boolean }> {
  const { url, token, from, readOnly = false, raw = process.stdin.isTTY, say } = options;
  let left = false;
  const stream = openStream({
    url,
    token,
    from,
    output: (bytes) =>
      new Promise<void>((resolve, reject) => {
        process.stdout.write(bytes, (error) => (error ? reject(error) : resolve()));
      }),
    state: (state) => say(state === 'lost' ? '\r\n[connection lost, trying again; Ctrl-] leaves]' : ''),
  });
  const onInput = (chunk: Buffer): void => {
    const { before, left: leave } = raw ? splitAtEscape(chunk) : { before: chunk, left: false };
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
