/** Runs test files, each in a process of its own, and tells what happens as it happens. */
import { run } from 'node:test';
import { TestCounter, type Failure, type Tally } from './tally.ts';

export interface RunOptions {
  readonly root: string;
  /** Relative to `root`. */
  readonly files: readonly string[];
  readonly concurrency: number;
  /** A file that hangs is ended after this. */
  readonly timeoutMs?: number;
  readonly onFile?: (done: number, file: string) => void;
  readonly onFailure?: (failure: Failure) => void;
  /** What tests write to standard output and error, for a log. */
  readonly onOutput?: (text: string) => void;
}

export async function runTests({
  root,
  files,
  concurrency,
  timeoutMs = 900_000,
  onFile = () => undefined,
  onFailure = () => undefined,
  onOutput = () => undefined,
}: RunOptions): Promise<Tally> {
  const counter = new TestCounter(root);
  const seen = new Set<string>();
  const stream = run({
    files: files.map((file) => `${root}/${file}`),
    concurrency,
    timeout: timeoutMs,
    cwd: root,
  });
  for await (const event of stream) {
    switch (event.type) {
      case 'test:pass':
        counter.pass(event.data);
        break;
      case 'test:fail': {
        const failure = counter.fail(event.data);
        if (failure) onFailure(failure);
        break;
      }
      case 'test:stdout':
      case 'test:stderr':
        onOutput(event.data.message);
        break;
      default:
        break;
    }
    const file = 'file' in event.data ? event.data.file : undefined;
    if (file !== undefined && !seen.has(file)) {
      seen.add(file);
      onFile(seen.size, file.replace(`${root}/`, ''));
    }
  }
  return counter.result();
}
