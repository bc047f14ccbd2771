/** Where something is done in our own source: found by its text when it is asked for, so that it is true today. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../../..', import.meta.url));

/** `src/kvm/vm.ts:57`: the first line of a file that has the text. Without it, the file alone. */
export function sourceLine(file: string, text: string): string {
  const lines = readFileSync(`${root}${file}`, 'utf8').split('\n');
  const index = lines.findIndex((line) => line.includes(text));
  return index < 0 ? file : `${file}:${index + 1}`;
}
