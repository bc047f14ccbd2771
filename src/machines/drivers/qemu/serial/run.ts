/**
 * A program run over a machine's serial console, for machines without an agent: what a person would do with a
 * terminal, but so that nothing on the screen is taken for an answer that is none.
 *
 * Different from a run by the agent: standard error is in standard output, a program that dies of signal N ends with
 * status 128+N, a working directory that is not there is status 125, there is no standard input, and output ends at
 * 1 MiB.
 */
import { CarrelError } from '#base/errors.ts';
import { makeMarker } from '#base/marker.ts';
import type { ProgramEnd, RunReply, RunRequest } from '#contract/schemas/machines.ts';
import type { Terminal } from '../../../driver.ts';
import { ctrlC, type Login, reachShell } from './login.ts';
import {
  type Coding,
  pieceLine,
  resultIn,
  runScript,
  scriptPieces,
  type SerialResult,
  startLine,
} from './script.ts';
import { openScreen, type Screen } from '#base/screen.ts';

export interface SerialOptions {
  readonly login: Login;
  /** For getting to a shell; the program has its own limit. */
  readonly limitMs: number;
  readonly signal?: AbortSignal | undefined;
}

/** Of a program's output: a console carries some 10 KiB/s, and all of it is looked through again and again. */
const maxOutputBytes = 2 ** 20;
/** More is not typed into a terminal. */
const maxScriptBytes = 64 << 10;
const lineMs = 15_000;
/** Between Ctrl-C and the end; and for the output, some 10 KiB/s at worst. */
const endMs = 5000;
const outputBytesPerMs = 10;

/** One at a time on each console. */
const busy = new WeakMap<Terminal, Promise<unknown>>();

export async function runOverSerial(
  terminal: Terminal,
  wanted: RunRequest,
  options: SerialOptions,
): Promise<RunReply> {
  const request = { ...wanted, outputBytes: Math.min(wanted.outputBytes, maxOutputBytes) };
  if (request.stdin !== '')
    throw new CarrelError('driver_unsupported', 'a program on a serial console cannot be given input', {
      hint: 'write it to a file first, and let the program read that',
    });
  const before = busy.get(terminal) ?? Promise.resolve();
  const mine = before.catch(() => undefined).then(() => runAlone(terminal, request, options));
  busy.set(terminal, mine);
  return await mine;
}

async function runAlone(
  terminal: Terminal,
  request: RunRequest,
  { login, limitMs, signal }: SerialOptions,
): Promise<RunReply> {
  signal?.throwIfAborted();
  const began = performance.now();
  using screen = openScreen(terminal, { maxBytes: 4 * request.outputBytes + (1 << 20) });
  const coding = await reachShell(screen, login, limitMs);
  const markers = { begin: makeMarker(), end: makeMarker() };
  await typeScript(screen, runScript(request, markers, { coding, loginUser: login.user }), coding);
  screen.forget();
  const result = (text: string): SerialResult | undefined =>
    resultIn(text, markers, { coding, most: request.outputBytes });
  const startedAt = performance.now();
  await screen.type(`${startLine(coding)}\r`);
  let killed: 'wall' | 'cancelled' | undefined;
  if (!(await ended(screen, markers.begin.text, request.limitMs, signal))) {
    killed = signal?.aborted ? 'cancelled' : 'wall';
    await screen.type(ctrlC);
  }
  const shown = await screen.wait(endMs, (text) => (text.includes(markers.begin.text) ? true : undefined));
  const found = shown && (await screen.wait(endMs + request.outputBytes / outputBytesPerMs, result));
  if (!found) {
    await screen.type(ctrlC);
    throw new CarrelError('deadline_exceeded', `${request.argv[0]} did not end on the serial console`, {
      details: { afterMs: Math.round(performance.now() - began) },
    });
  }
  return replyOf(found, killed, { request, wallMs: performance.now() - startedAt });
}

/** Has the program ended by itself, within its limit? */
async function ended(
  screen: Screen,
  marker: string,
  ms: number,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  const stop = new Promise<undefined>((resolve) => {
    if (signal?.aborted) resolve(undefined);
    signal?.addEventListener('abort', () => resolve(undefined), { once: true });
  });
  const end = screen.wait(ms, (text) => (text.includes(marker) ? true : undefined));
  return (await Promise.race([end, stop])) === true;
}

async function typeScript(screen: Screen, script: string, coding: Coding): Promise<void> {
  if (script.length > maxScriptBytes)
    throw new CarrelError('too_large', 'the arguments are too long for a serial console', {
      details: { limit: maxScriptBytes },
    });
  for (const piece of scriptPieces(script, coding)) {
    const marker = makeMarker();
    await screen.type(`${pieceLine(piece, marker)}\r`);
    if (!(await screen.wait(lineMs, (text) => (text.includes(marker.text) ? true : undefined))))
      throw new CarrelError('deadline_exceeded', 'the shell on the serial console does not answer any more');
  }
}

function replyOf(
  { status, output, bytes }: SerialResult,
  killed: 'wall' | 'cancelled' | undefined,
  { request, wallMs }: { request: RunRequest; wallMs: number },
): RunReply {
  if (bytes === undefined)
    throw new CarrelError('disk_full', "the machine has no room for a program's output in /tmp or /dev/shm");
  const reason = bytes > request.outputBytes ? 'output' : killed;
  const end: ProgramEnd = reason === undefined ? { kind: 'exited', status } : { kind: 'killed', reason };
  return { end, stdout: output.toString('base64'), stderr: '', wallMs };
}
