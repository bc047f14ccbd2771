/**
 * Server-made identifiers: a one- or two-letter prefix that says what it is, a dash, and 12 characters
 * of Crockford base 32 (60 random bits). Short enough to type, safe in a path, an interface name or a URL.
 */
import { randomBytes } from 'node:crypto';

/** What an id can point to; the prefix stands before the dash. */
export const idPrefixes = {
  user: 'u',
  token: 't',
  course: 'c',
  lab: 'l',
  submission: 's',
  grade: 'g',
  regrade: 'r',
  job: 'j',
  machine: 'm',
  exec: 'x',
  image: 'i',
  network: 'n',
  snapshot: 'sn',
  forward: 'f',
  script: 'sc',
  template: 'tp',
} as const;

export type IdKind = keyof typeof idPrefixes;
export type Id<K extends IdKind> = `${(typeof idPrefixes)[K]}-${string}`;

const alphabet = '0123456789abcdefghjkmnpqrstvwxyz';
const length = 12;

/** A fresh id, for example `m-4j8z0q2hk3vd`. */
export function newId<K extends IdKind>(kind: K): Id<K> {
  let text = '';
  for (const byte of randomBytes(length)) text += alphabet[byte & 31];
  return `${idPrefixes[kind]}-${text}`;
}

const patterns = new Map<IdKind, RegExp>();

/** Is `text` a well-formed id of this kind? Says nothing about whether the object exists. */
export function isId<K extends IdKind>(kind: K, text: string): text is Id<K> {
  let pattern = patterns.get(kind);
  if (!pattern) {
    pattern = new RegExp(`^${idPrefixes[kind]}-[${alphabet}]{${length}}$`);
    patterns.set(kind, pattern);
  }
  return pattern.test(text);
}
