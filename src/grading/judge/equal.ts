/** Is a returned value the expected one? Both are plain data; nothing of the student's runs here. */
import type { Value } from '../format/values.ts';
import { isClose } from './numbers.ts';

const isNumber = (value: Value): value is number | bigint =>
  typeof value === 'number' || typeof value === 'bigint';
const isList = (value: Value): value is readonly Value[] => Array.isArray(value);
const isObject = (value: Value): value is { readonly [key: string]: Value } =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function numbersEqual(
  actual: number | bigint,
  expected: number | bigint,
  tolerance: number | undefined,
): boolean {
  if (tolerance === undefined) {
    // oxlint-disable-next-line eqeqeq -- == compares a bigint and a number by their exact values
    return actual == expected || Object.is(actual, expected);
  }
  return isClose(Number(actual), Number(expected), tolerance);
}

/**
 * 3 equals 3.0, as in Python and JSON; true does not equal 1. `tolerance` holds for every number inside;
 * without one, numbers must be equal exactly.
 */
export function valuesEqual(actual: Value, expected: Value, tolerance?: number): boolean {
  if (isNumber(expected)) return isNumber(actual) && numbersEqual(actual, expected, tolerance);
  if (isList(expected))
    return (
      isList(actual) &&
      actual.length === expected.length &&
      expected.every((item, index) => valuesEqual(actual[index] ?? null, item, tolerance))
    );
  if (isObject(expected)) {
    if (!isObject(actual) || Object.keys(actual).length !== Object.keys(expected).length) return false;
    return Object.entries(expected).every(
      ([key, item]) => Object.hasOwn(actual, key) && valuesEqual(actual[key] ?? null, item, tolerance),
    );
  }
  return actual === expected;
}
