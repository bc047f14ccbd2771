/** Log lines: JSON for programs, on standard error so that standard output stays a result. */

export type LogLevel = 'debug' | 'info' | 'warn' | 'error';
export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger whose lines all carry these fields too. */
  with(fields: LogFields): Logger;
}

const order: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

function plain(value: unknown): unknown {
  return value instanceof Error ? { message: value.message, stack: value.stack } : value;
}

/** A logger that writes one JSON object per line: at, level, message, then the fields. */
export function createLogger({
  level = 'info',
  write = (line: string): void => void process.stderr.write(line),
  fields = {},
}: { level?: LogLevel; write?: (line: string) => void; fields?: LogFields } = {}): Logger {
  const emit = (lineLevel: LogLevel, message: string, more: LogFields = {}): void => {
    if (order[lineLevel] < order[level]) return;
    const entry = { at: new Date().toISOString(), level: lineLevel, message, ...fields, ...more };
    write(`${JSON.stringify(entry, (_, value: unknown) => plain(value))}\n`);
  };
  return {
    debug: (message, more) => emit('debug', message, more),
    info: (message, more) => emit('info', message, more),
    warn: (message, more) => emit('warn', message, more),
    error: (message, more) => emit('error', message, more),
    with: (more) => createLogger({ level, write, fields: { ...fields, ...more } }),
  };
}

/** A logger that says nothing: for libraries used without one. */
export const silent: Logger = createLogger({ write: () => undefined });
