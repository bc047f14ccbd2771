/** The serial line of a machine, as its keeper records it. */
import { existsSync } from 'node:fs';
import { keptPaths } from '#isolate/kept.ts';
import { readRecord } from '#isolate/record.ts';

/** Of what was said last, for an error. */
const lastWords = 1000;

/** The end of what is on it, at most `bytes`; empty when there is none. */
export function consoleEnd(directory: string, bytes: number): string {
  const { console: path } = keptPaths(directory);
  if (!existsSync(path)) return '';
  const { total } = readRecord(path, 0, { maxBytes: 1 });
  return readRecord(path, Math.max(0, total - bytes)).bytes.toString('latin1');
}

/** The same for people: printable, one blank for what is not. */
export function consoleTail(directory: string): string {
  return consoleEnd(directory, lastWords)
    .replaceAll(/[^\x20-\x7e\n]+/g, ' ')
    .trim();
}
