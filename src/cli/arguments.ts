/** What was typed, read by type: a command asks for what its spec declares, and gets a usage error if it is malformed. */
import { CarrelError } from '#base/errors.ts';
import { parseDuration, parseSize } from '#base/units.ts';

export class Arguments {
  readonly #positional: ReadonlyMap<string, unknown>;
  readonly #options: Readonly<Record<string, unknown>>;

  constructor(positional: ReadonlyMap<string, unknown>, options: Readonly<Record<string, unknown>>) {
    this.#positional = positional;
    this.#options = options;
  }

  /** A required argument. */
  word(name: string): string {
    const value = this.#positional.get(name);
    if (typeof value !== 'string')
      throw new CarrelError('invalid_request', `the argument ${name.toUpperCase()} is missing`);
    return value;
  }

  /** An optional argument. */
  wordIf(name: string): string | undefined {
    const value = this.#positional.get(name);
    return typeof value === 'string' ? value : undefined;
  }

  /** An argument that takes all that follow. */
  words(name: string): readonly string[] {
    return strings(this.#positional.get(name));
  }

  /** A program and its arguments; a `--` before it only says that what follows is not ours. */
  program(name: string): readonly string[] {
    const words = this.words(name);
    return words[0] === '--' ? words.slice(1) : words;
  }

  flag(name: string): boolean {
    return this.#options[name] === true;
  }

  /** A `--no-...` flag: false only if it was given. */
  unless(name: string): boolean {
    return this.#options[name] !== false;
  }

  option(name: string): string | undefined {
    const value = this.#options[name];
    return typeof value === 'string' ? value : undefined;
  }

  need(name: string): string {
    const value = this.option(name);
    if (value === undefined)
      throw new CarrelError('invalid_request', `the option --${dashed(name)} is missing`, {
        hint: 'see --help',
      });
    return value;
  }

  many(name: string): readonly string[] {
    return strings(this.#options[name]);
  }

  number(name: string): number | undefined {
    const text = this.option(name);
    if (text === undefined) return undefined;
    const value = Number(text);
    if (text.trim() === '' || !Number.isFinite(value))
      throw new CarrelError('invalid_request', `--${dashed(name)} wants a number, not ${text}`);
    return value;
  }

  /** Bytes, from `512M` and the like. */
  size(name: string): number | undefined {
    const text = this.option(name);
    return text === undefined ? undefined : parseSize(text, `--${dashed(name)}`);
  }

  /** Milliseconds, from `3s` and the like. */
  duration(name: string): number | undefined {
    const text = this.option(name);
    return text === undefined ? undefined : parseDuration(text, `--${dashed(name)}`);
  }

  /** `KEY=VALUE` pairs of a repeatable option. */
  pairs(name: string): Record<string, string> {
    return Object.fromEntries(
      this.many(name).map((pair) => {
        const at = pair.indexOf('=');
        if (at < 1)
          throw new CarrelError('invalid_request', `--${dashed(name)} wants KEY=VALUE, not ${pair}`);
        return [pair.slice(0, at), pair.slice(at + 1)];
      }),
    );
  }
}

function strings(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === 'string') : [];
}

function dashed(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}
