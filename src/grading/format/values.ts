/** Plain data as checks use it: JSON, with whole numbers of any size. */

export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | readonly Value[]
  | { readonly [key: string]: Value };

/** A whole number a double holds exactly becomes a number; larger ones stay bigint, so 2**64 and 2**64+1 differ. */
function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/** What a YAML parser gives (with `intAsBigInt`), as plain numbers wherever they are exact. */
export function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return narrow(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
  return value;
}

/** Is it plain data, nested at most `depth` deep? */
export function isValue(value: unknown, depth = 32): value is Value {
  if (value === null || ['boolean', 'number', 'bigint', 'string'].includes(typeof value)) return true;
  if (typeof value !== 'object' || depth === 0) return false;
  return Object.values(value).every((item) => isValue(item, depth - 1));
}

/** The reviver's third argument (ECMAScript proposal "JSON.parse source text access", in V8 since 11.4). */
interface Source {
  readonly source?: string;
}

/** JSON with whole numbers of any size. Throws SyntaxError. */
export function parseValue(text: string): Value {
  const parsed: unknown = JSON.parse(text, (_, item: unknown, context?: Source) =>
    typeof item === 'number' && !Number.isSafeInteger(item) && /^-?\d+$/.test(context?.source ?? '')
      ? BigInt(context?.source ?? 0)
      : item,
  );
  if (!isValue(parsed, 200)) throw new SyntaxError('nested too deeply');
  return parsed;
}

/** JSON of a value; whole numbers of any size are written as digits. */
export function formatValue(value: Value): string {
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return `[${value.map(formatValue).join(', ')}]`;
  if (typeof value === 'object' && value !== null)
    return `{${Object.entries(value)
      .map(([key, item]) => `${JSON.stringify(key)}: ${formatValue(item)}`)
      .join(', ')}}`;
  return JSON.stringify(value);
}
