/** Numbers in a text, compared with a tolerance. */

const numeral = /[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?|[+-]?\b(?:inf(?:inity)?|nan)\b/gi;

export interface NumberRule {
  readonly values: readonly (number | bigint)[];
  readonly tolerance: number;
  readonly relative: number;
}

/** The numerals in a text, as written. At most `max` of them are read. */
export function numeralsIn(text: string, max = 4000): string[] {
  const found: string[] = [];
  for (const [numeral_] of text.matchAll(numeral)) {
    found.push(numeral_);
    if (found.length >= max) break;
  }
  return found;
}

function toNumber(text: string): number {
  const lower = text.toLowerCase();
  if (lower.includes('inf'))
    return lower.startsWith('-') ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
  return lower.includes('nan') ? Number.NaN : Number(text);
}

/** Equal within tolerance; NaN equals NaN, since an author who expects NaN means it. */
export function isClose(actual: number, expected: number, tolerance = 0, relative = 0): boolean {
  if (Object.is(actual, expected) || actual === expected) return true;
  if (Number.isNaN(actual) || Number.isNaN(expected)) return Number.isNaN(actual) && Number.isNaN(expected);
  if (!Number.isFinite(expected) || !Number.isFinite(actual)) return false;
  return Math.abs(actual - expected) <= Math.max(tolerance, relative * Math.abs(expected));
}

/** Is this numeral the number, exactly (for whole numbers of any size) or within the tolerance? */
function agrees(text: string, expected: number | bigint, { tolerance, relative }: NumberRule): boolean {
  const exact = tolerance === 0 && relative === 0;
  if (exact && /^[+-]?\d+$/.test(text) && (typeof expected === 'bigint' || Number.isInteger(expected)))
    return BigInt(text.replace('+', '')) === BigInt(expected);
  return isClose(toNumber(text), Number(expected), tolerance, relative);
}

/** What is wrong with the numbers in `text`; undefined if nothing. */
export function numbersProblem(
  text: string,
  rule: NumberRule,
): { observed: string; expected: string } | undefined {
  const found = numeralsIn(text, rule.values.length + 1);
  for (const [index, value] of rule.values.entries()) {
    const actual = found[index];
    if (actual === undefined)
      return { observed: `has ${found.length} numbers`, expected: `${rule.values.length} numbers` };
    if (!agrees(actual, value, rule))
      return { observed: `has ${actual.slice(0, 40)} as number ${index + 1}`, expected: `${value}` };
  }
  if (found.length > rule.values.length)
    return {
      observed: `has more than ${rule.values.length} numbers`,
      expected: `${rule.values.length} numbers`,
    };
  return undefined;
}
