/** JSON from outside, parsed strictly: UTF-8 without errors, bounded depth, no key or text that bites later. */
import { CarrelError, messageOf } from '#base/errors.ts';

/** Deep enough for everything in the contract; shallow enough for every recursive reader behind it. */
const MAX_DEPTH = 32;
/** Objects and array elements; a body of commas is small in bytes and large in memory. */
const MAX_NODES = 200_000;

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: false });

/** The value, or `invalid_request` (not JSON) or `validation_failed` (JSON that we refuse anywhere). */
export function parseJson(bytes: Uint8Array): unknown {
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(bytes));
  } catch (cause) {
    throw new CarrelError('invalid_request', `the body is not JSON: ${messageOf(cause).slice(0, 200)}`, {
      cause,
    });
  }
  inspect(value);
  return value;
}

function refuse(why: string): never {
  throw new CarrelError('validation_failed', why);
}

/** NUL cannot be stored and ends C strings; a lone surrogate is no text. */
function inspectText(text: string): void {
  if (text.includes('\0')) refuse('text may not contain a NUL character');
  if (!text.isWellFormed()) refuse('text may not contain half of a surrogate pair');
}

/** Level by level, without recursion. */
function inspect(root: unknown): void {
  let level: unknown[] = [root];
  let nodes = 1;
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > MAX_DEPTH) refuse(`JSON deeper than ${MAX_DEPTH} levels`);
    const next: unknown[] = [];
    for (const value of level) {
      if (typeof value === 'string') inspectText(value);
      else if (Array.isArray(value)) for (const item of value) next.push(item);
      else if (typeof value === 'object' && value !== null)
        for (const [key, item] of Object.entries(value)) {
          if (key === '__proto__') refuse('unknown field: __proto__');
          inspectText(key);
          next.push(item);
        }
    }
    nodes += next.length;
    if (nodes > MAX_NODES) refuse(`JSON with more than ${MAX_NODES} values`);
    level = next;
  }
}
