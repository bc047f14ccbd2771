/**
 * Progress of anything that takes more than a second. On a terminal one line rewrites itself; elsewhere (a log,
 * CI) a line appears when the words change, at most every five seconds, so that a log stays readable.
 */
import { formatDuration } from '#base/units.ts';
import { printable } from './style.ts';

const quietMs = 1000;
const redrawMs = 100;
const sparseMs = 5000;

export interface Progress extends Disposable {
  /** What is being done now; `done` of `total`, where they are known. */
  update(what: string, done?: number, total?: number): void;
  /** Takes the line away, so that something else can be printed. */
  clear(): void;
}

interface Screen {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

const frames = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

export function createProgress({
  screen = process.stderr,
  now = () => performance.now(),
}: { screen?: Screen; now?: () => number } = {}): Progress {
  const began = now();
  let words = '';
  let said = '';
  let saidAt = began - sparseMs;
  let frame = 0;
  let drawn = false;

  const draw = (): void => {
    const elapsed = now() - began;
    if (elapsed < quietMs || words === '') return;
    if (screen.isTTY === true) {
      frame = (frame + 1) % frames.length;
      const line = `${frames[frame]} ${words}  ${formatDuration(elapsed)}`;
      screen.write(`\r\u001B[K${line.slice(0, (screen.columns ?? 80) - 1)}`);
      drawn = true;
    } else if (words !== said && now() - saidAt >= sparseMs) {
      screen.write(`  ${words}\n`);
      said = words;
      saidAt = now();
    }
  };
  const clear = (): void => {
    if (drawn) screen.write('\r\u001B[K');
    drawn = false;
  };
  const timer = setInterval(draw, redrawMs);
  timer.unref();

  return {
    update(what, done, total) {
      words = printable(total === undefined ? what : `${what} ${done ?? 0}/${total}`);
    },
    clear,
    [Symbol.dispose]() {
      clearInterval(timer);
      clear();
    },
  };
}
