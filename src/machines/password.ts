/** Passwords that Carrel makes: random, easy to read out loud and to type, shown once. */
import { randomBytes } from 'node:crypto';

/** Crockford's base 32 in small letters: no l, i, o or u that could be taken for something else. */
const alphabet = '0123456789abcdefghjkmnpqrstvwxyz';
const groups = 4;
const groupLength = 4;

/** 80 random bits, for example `7k2m-x0fq-9tcd-w3ha`: letters, digits and dashes only, so that every tool takes it. */
export function newPassword(): string {
  const characters = Array.from(randomBytes(groups * groupLength), (byte) => alphabet[byte & 31]);
  return Array.from({ length: groups }, (_, group) =>
    characters.slice(group * groupLength, (group + 1) * groupLength).join(''),
  ).join('-');
}
