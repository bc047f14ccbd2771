/** Names from outside as paths inside a directory: parsed once, here, and safe from then on. */
import { CarrelError, type ErrorCode } from '#base/errors.ts';

/** NAME_MAX of Linux file systems (limits.h): longer parts cannot be created. */
export const maxPartBytes = 255;
/** PATH_MAX of Linux (limits.h). */
export const maxPathBytes = 4096;

/**
 * C0, DEL, C1, line and paragraph separators, and the signs that turn the direction of writing round:
 * a name that holds them shows as something else than it is in a terminal, a log or a CSV file.
 */
const unprintable = /[\p{Cc}\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/u;

/** Would the text show as something else than it is? */
export function isUnprintable(text: string): boolean {
  return unprintable.test(text);
}

/** A name for error sentences: quoted, with control characters escaped, at most about 80 characters long. */
export function quoteName(text: string): string {
  const shown = JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text);
  return shown.replaceAll(
    new RegExp(unprintable, 'gu'),
    (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

export interface PathOptions {
  /** The code of the error; `invalid_archive` unless the path came in another way. */
  readonly code?: ErrorCode;
  readonly maxBytes?: number;
  /** Root file systems have such names (systemd's units); files from people need none. */
  readonly allowBackslash?: boolean;
}

/**
 * The normal form of a relative path: parts joined by one slash, no `.`, no slash at the end.
 * Refuses what is empty, absolute, climbs with `..`, holds a backslash or an unprintable character,
 * or is too long for a Linux file system.
 *
 * @example safeRelativePath('./src//main.c') // 'src/main.c'
 */
export function safeRelativePath(
  text: string,
  { code = 'invalid_archive', maxBytes = maxPathBytes, allowBackslash = false }: PathOptions = {},
): string {
  const refuse = (why: string): never => {
    throw new CarrelError(code, `${quoteName(text)} cannot be a file name here: ${why}`);
  };
  if (text === '') refuse('it is empty');
  // Before anything that costs time in the length of the text.
  if (text.length > maxBytes) refuse(`it is longer than ${maxBytes} bytes`);
  if (!text.isWellFormed()) refuse('it is not valid Unicode');
  if (text.startsWith('/')) refuse('it is an absolute path');
  if (!allowBackslash && text.includes('\\')) refuse('it contains a backslash');
  if (unprintable.test(text)) refuse('it contains a control character');
  const parts: string[] = [];
  for (const part of text.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..') refuse('it climbs out with ".."');
    if (Buffer.byteLength(part) > maxPartBytes) refuse(`a part of it is longer than ${maxPartBytes} bytes`);
    parts.push(part);
  }
  if (parts.length === 0) refuse('it names the directory itself');
  const path = parts.join('/');
  if (Buffer.byteLength(path) > maxBytes) refuse(`it is longer than ${maxBytes} bytes`);
  return path;
}
