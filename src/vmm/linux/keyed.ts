/**
 * Options as a list of keys, `path=vmlinux,cmdline=console=ttyS0`, as the rust-vmm reference VMM takes them. A
 * value that is empty is the default; a key that nobody knows is an error.
 */
import { CarrelError } from '#base/errors.ts';

export interface Keyed {
  /** The value of a key; undefined where it is not given or empty. */
  get(key: string): string | undefined;
  /** As `get`; missing is an error that names the key. */
  need(key: string): string;
  /** A whole number of 0 or more, also as 0x.... */
  number(key: string): number | undefined;
}

const wrong = (what: string, why: string): CarrelError =>
  new CarrelError('invalid_request', `Invalid input for ${what}: ${why}`, {
    hint: 'see: carrel vmm linux --help',
  });

/** `what` names the part of the machine in errors: `kernel`, `memory`, `vCPUs`, `network`, `block`. */
export function parseKeyed(what: string, text: string, keys: readonly string[]): Keyed {
  const values = new Map<string, string>();
  for (const part of text === '' ? [] : text.split(',')) {
    const at = part.indexOf('=');
    const key = at < 0 ? part : part.slice(0, at);
    if (at < 0 || !keys.includes(key)) throw wrong(what, `Unknown argument: ${key}`);
    if (values.has(key)) throw wrong(what, `Duplicate argument: ${key}`);
    values.set(key, part.slice(at + 1));
  }
  const get = (key: string): string | undefined => {
    const value = values.get(key);
    return value === '' ? undefined : value;
  };
  return {
    get,
    need(key) {
      const value = get(key);
      if (value === undefined) throw wrong(what, `Missing required argument: ${key}`);
      return value;
    },
    number(key) {
      const value = get(key);
      if (value === undefined) return undefined;
      if (!/^(0x[0-9a-f]{1,12}|\d{1,15})$/i.test(value))
        throw wrong(what, `${key} wants a whole number, not ${value}`);
      return Number(value);
    },
  };
}

/** Whether it is such a list, and not a path or a number as it is. */
export function isKeyed(text: string, keys: readonly string[]): boolean {
  return text === '' || keys.some((key) => text.startsWith(`${key}=`));
}
