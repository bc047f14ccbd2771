/** Counts what the test runner tells: leaves only, with the reasons of skips and the time of each file. */
import type { EventData } from 'node:test';

export interface Failure {
  readonly file: string;
  readonly name: string;
  readonly message: string;
}

export interface Tally {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly failures: readonly Failure[];
  /** Reason -> names of the tests that were skipped for it. */
  readonly skips: ReadonlyMap<string, readonly string[]>;
  /** Milliseconds of each file, slowest first. */
  readonly slowest: readonly (readonly [file: string, ms: number])[];
}

/** The last line of `carrel test`: `N passed, N failed[, N skipped]`. */
export function lastLine({ passed, failed, skipped }: Pick<Tally, 'passed' | 'failed' | 'skipped'>): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`;
}

/** What an error of a test says: the innermost cause, as the assertion wrote it. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error
    ? (error.cause.stack ?? error.cause.message)
    : (error.stack ?? error.message);
}

type Result = EventData.TestPass | EventData.TestFail;

export class TestCounter {
  readonly #root: string;
  #passed = 0;
  #skipped = 0;
  readonly #failures: Failure[] = [];
  readonly #skips = new Map<string, string[]>();
  readonly #times = new Map<string, number>();

  constructor(root: string) {
    this.#root = root;
  }

  #fileOf(file: string | undefined): string {
    return file?.startsWith(this.#root) ? file.slice(this.#root.length).replace(/^\//, '') : (file ?? '?');
  }

  /** A suite is counted by its tests; a failing suite whose tests all passed (a hook broke) counts as a failure. */
  pass(event: Result): void {
    const { name, details, nesting } = event;
    const file = this.#fileOf(event.file);
    if (nesting === 0) this.#times.set(file, (this.#times.get(file) ?? 0) + details.duration_ms);
    if (details.type === 'suite') return;
    const reason = event.skip ?? event.todo;
    if (reason === undefined || reason === false) {
      this.#passed += 1;
      return;
    }
    this.#skipped += 1;
    const words = reason === true || reason === '' ? 'no reason given' : reason;
    this.#skips.set(words, [...(this.#skips.get(words) ?? []), `${file}: ${name}`]);
  }

  fail(event: EventData.TestFail): Failure | undefined {
    const file = this.#fileOf(event.file);
    const { error } = event.details;
    if (event.nesting === 0) this.#times.set(file, (this.#times.get(file) ?? 0) + event.details.duration_ms);
    // a parent that failed only because of its children is told by them
    if ('failureType' in error && error.failureType === 'subtestsFailed') return undefined;
    const failure = { file, name: event.name, message: messageOf(error) };
    this.#failures.push(failure);
    return failure;
  }

  result(): Tally {
    return {
      passed: this.#passed,
      failed: this.#failures.length,
      skipped: this.#skipped,
      failures: this.#failures,
      skips: this.#skips,
      slowest: [...this.#times].sort(([, a], [, b]) => b - a),
    };
  }
}
