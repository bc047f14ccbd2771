/** C signatures that a check may call: int, long, double and char *, and void for no result's sake is left out. */
import { CarrelError } from '#base/errors.ts';
import { type Value, formatValue } from './values.ts';

export type CType = 'int' | 'long' | 'double' | 'char *';

export interface Signature {
  readonly name: string;
  readonly result: CType;
  readonly parameters: readonly CType[];
  /** Throws if the values do not have the signature's types. */
  check(args: readonly Value[], result: Value | undefined): void;
}

function parseType(text: string): CType {
  const words = text
    .replaceAll('*', ' * ')
    .replace(/\bconst\b/g, ' ')
    .trim()
    .split(/\s+/)
    .join(' ');
  if (words === 'int' || words === 'long' || words === 'double' || words === 'char *') return words;
  throw new CarrelError('lab_invalid', `${text.trim()} is none of int, long, double, char *`);
}

/** A parameter may have a name: `int n` is `int`. */
function parseParameter(text: string): CType {
  const named = /^(.*[\s*])([A-Za-z_]\w*)\s*$/.exec(text);
  if (named?.[1] !== undefined && !['int', 'long', 'double', 'char'].includes(named[2] ?? ''))
    return parseType(named[1]);
  return parseType(text);
}

const ranges = { int: 2n ** 31n, long: 2n ** 63n } as const;

function fits(type: CType, value: Value): boolean {
  if (type === 'char *') return typeof value === 'string' && !value.includes('\0');
  if (type === 'double') return typeof value === 'number' || typeof value === 'bigint';
  if (typeof value !== 'bigint' && !(typeof value === 'number' && Number.isInteger(value))) return false;
  const whole = BigInt(value);
  return whole >= -ranges[type] && whole < ranges[type];
}

function checkFits(type: CType, value: Value, what: string): void {
  if (!fits(type, value)) throw new CarrelError('lab_invalid', `${what} ${formatValue(value)} is no ${type}`);
}

/**
 * @example parseSignature('int reach_number(int target)').parameters // ['int']
 */
export function parseSignature(text: string): Signature {
  const match = /^\s*([A-Za-z\s*]+?[\s*])([A-Za-z_]\w*)\s*\(([^()]*)\)\s*;?\s*$/.exec(text);
  const [, resultText, name, list] = match ?? [];
  if (resultText === undefined || name === undefined || list === undefined)
    throw new CarrelError('lab_invalid', `"${text}" is no signature such as: int f(int, double)`);
  const result = parseType(resultText);
  const parameters = ['', 'void'].includes(list.trim()) ? [] : list.split(',').map(parseParameter);
  if (parameters.length > 8) throw new CarrelError('lab_invalid', 'a signature has at most 8 parameters');
  return {
    name,
    result,
    parameters,
    check(args, returned) {
      if (args.length !== parameters.length)
        throw new CarrelError(
          'lab_invalid',
          `${name} takes ${parameters.length} arguments, not ${args.length}`,
        );
      for (const [index, type] of parameters.entries()) checkFits(type, args[index] ?? null, 'the argument');
      if (returned !== undefined) checkFits(result, returned, 'the result');
    },
  };
}
