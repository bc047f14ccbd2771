/** `carrel vmm debug GUEST`: a prompt over a session. */
import { createInterface } from 'node:readline';
import { CarrelError } from '#base/errors.ts';
import type { Action } from '../../spec.ts';
import { printable } from '../../ui/style.ts';
import { Debugger } from './debugger.ts';
import { diskOf, limitOf, machineOptionsOf, shareOf } from './options.ts';

const prompt = '(vmm) ';

/** A debugger waits for people: a stretch may take long. */
const usualLimitMs = 60_000;

const print = (text: string): void => {
  for (const line of text.split('\n')) process.stdout.write(`${printable(line)}\n`);
};

async function tryLine(debug: Debugger, line: string): Promise<void> {
  try {
    await debug.obey(line);
  } catch (error) {
    if (!(error instanceof CarrelError)) throw error;
    print(`${error.message}${error.hint === undefined ? '' : ` (${error.hint})`}`);
  }
}

export const vmmDebug: Action = async ({ args, out }) => {
  if (out.json)
    throw new CarrelError('invalid_request', 'a prompt has no JSON', {
      hint: 'vmm serve and vmm inspect --json have it',
    });
  const debug = new Debugger(await machineOptionsOf(args), {
    print,
    limitMs: limitOf(args, usualLimitMs),
    ports: args.option('ports') ?? 'carrel',
    ...(await shareOf(args)),
    ...diskOf(args),
  });
  const { stdin, stdout } = process;
  const terminal = stdin.isTTY && stdout.isTTY;
  const lines = createInterface({
    input: stdin,
    ...(terminal && { output: stdout }),
    terminal,
    historySize: 0,
    prompt,
  });
  // what comes from a pipe has ended before its last line is obeyed
  let isOpen = true;
  lines.once('close', () => {
    isOpen = false;
  });
  lines.on(
    'SIGINT',
    () =>
      void debug.interrupt().then(
        (did) => !did && print('\nquit leaves'),
        () => undefined, // it just begins anew: there is nothing to stop
      ),
  );
  try {
    print(`${debug.here()}\nhelp lists the commands`);
    if (terminal) lines.prompt();
    for await (const line of lines) {
      if (!terminal) print(`${prompt}${line}`); // a transcript that can be read
      await tryLine(debug, line);
      if (debug.left) break;
      if (terminal && isOpen) lines.prompt();
    }
  } finally {
    lines.close();
    await debug.session.close();
  }
  return undefined;
};
