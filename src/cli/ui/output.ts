/** Results on standard output, everything else on standard error; with --json the result alone, as JSON. */
import { CarrelError, messageOf } from '#base/errors.ts';
import { createPaint, paintState, printable, type Paint } from './style.ts';
import { createProgress, type Progress } from './progress.ts';
import { renderTable, type Column } from './table.ts';

export interface Output {
  readonly json: boolean;
  readonly paint: Paint;
  /** A state's word in its colour. */
  readonly state: (word: string) => string;
  /** The result: as JSON with --json, else what `render` makes of it. */
  result<T>(value: T, render: (value: T) => string): void;
  /** A list as a table, or as JSON; `none` is said where there is nothing. */
  table<T>(rows: readonly T[], columns: readonly Column<T>[], none: string): void;
  /** A remark for people; silent with --json. */
  note(text: string): void;
  /** Bytes to standard output as they are; waits while the reader is slow. */
  bytes(chunk: Uint8Array): Promise<void>;
  error(error: unknown): void;
  progress(): Progress;
}

/** Turns anything thrown into what the API calls a problem. */
export function problemOf(error: unknown): {
  code: string;
  status: number;
  detail: string;
  hint?: string;
  details?: unknown;
} {
  if (!(error instanceof CarrelError)) return { code: 'internal', status: 500, detail: messageOf(error) };
  const { code, status, message, hint, details } = error;
  return { code, status, detail: message, ...(hint !== undefined && { hint }), ...(details && { details }) };
}

const silentProgress: Progress = {
  update: () => undefined,
  clear: () => undefined,
  [Symbol.dispose]: () => undefined,
};

const print = (text: string): void => void process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);

export function createOutput({ json = false }: { json?: boolean } = {}): Output {
  const paint = createPaint(process.stdout);
  const result = <T>(value: T, render: (value: T) => string): void => {
    if (json) print(JSON.stringify(value, undefined, 2));
    else {
      const text = render(value);
      if (text !== '') print(text);
    }
  };
  return {
    json,
    paint,
    state: (word) => paintState(paint, word),
    result,
    table: (rows, columns, none) =>
      result(rows, () =>
        rows.length === 0 ? none : renderTable(rows, columns, { paintHead: (text) => paint('bold', text) }),
      ),
    note: (text) => {
      if (!json) process.stderr.write(`${text}\n`);
    },
    bytes: (chunk) =>
      new Promise((resolve, reject) =>
        process.stdout.write(chunk, (error) => (error ? reject(error) : resolve())),
      ),
    error(error) {
      if (json) {
        process.stderr.write(`${JSON.stringify(problemOf(error))}\n`);
        return;
      }
      const red = createPaint(process.stderr);
      const { detail, hint, code } = problemOf(error);
      process.stderr.write(`${red('red', 'carrel:')} ${printable(detail)}\n`);
      if (hint !== undefined) process.stderr.write(`  ${printable(hint)}\n`);
      const unexpected = !(error instanceof CarrelError) && error instanceof Error;
      if (unexpected || (code === 'internal' && process.env['CARREL_DEBUG']))
        process.stderr.write(`${error instanceof Error ? error.stack : ''}\n`);
    },
    progress: () => (json ? silentProgress : createProgress()),
  };
}
