/** Public keys as they stand in authorized_keys(5), one line each. */
import { z } from 'zod';

/** What OpenSSH's and dropbear's servers take today. `ssh-dss` is not among them. */
const keyTypes = new Set([
  'ssh-ed25519',
  'ssh-rsa',
  'ecdsa-sha2-nistp256',
  'ecdsa-sha2-nistp384',
  'ecdsa-sha2-nistp521',
  'sk-ssh-ed25519@openssh.com',
  'sk-ecdsa-sha2-nistp256@openssh.com',
]);

/** An RSA key of 16384 bits has 2.8 KB of base64. */
const maxLineLength = 4096;

/**
 * What is wrong with a line, undefined if nothing is. A key is its type, one space, its base64, and perhaps one more
 * space and a comment: no options before it, for those could run programs. The blob says its type again, and
 * consists of strings that each carry their length (RFC 4253, 6.6); all of it must be there.
 */
export function faultOfKey(line: string): string | undefined {
  if (line.length > maxLineLength) return `a key has at most ${maxLineLength} characters`;
  // a line break would begin a second key, one that nobody has checked
  if (/[\p{Cc}\p{Cs}\u2028\u2029]/u.test(line)) return 'a key is one line without control characters';
  const [type = '', base64 = '', ...comment] = line.split(' ');
  if (!keyTypes.has(type))
    return `a key begins with its type, such as ssh-ed25519, not ${JSON.stringify(type.slice(0, 40))}`;
  if (comment.length > 0 && comment[0] === '') return 'there is one space before the comment';
  const blob = Buffer.from(base64, 'base64');
  if (base64 === '' || blob.toString('base64') !== base64) return 'its second part is not base64';
  const parts = partsOf(blob);
  if (parts === undefined || parts.length < 2) return 'it is cut off';
  const inner = parts[0]?.toString('latin1');
  if (inner !== type) return `it says ${type}, but it is of another type`;
  return undefined;
}

/** The strings of a blob; undefined if they do not fill it exactly. */
function partsOf(blob: Buffer): Buffer[] | undefined {
  const parts: Buffer[] = [];
  let at = 0;
  while (at < blob.length) {
    if (at + 4 > blob.length) return undefined;
    const end = at + 4 + blob.readUInt32BE(at);
    if (end > blob.length) return undefined;
    parts.push(blob.subarray(at + 4, end));
    at = end;
  }
  return parts;
}

/** One checked line of authorized_keys(5). */
export const sshKey = z.string().superRefine((line, context) => {
  const fault = faultOfKey(line);
  if (fault !== undefined) context.addIssue({ code: 'custom', message: `not a public key: ${fault}` });
});

/** Who may come in as root. */
export const sshKeys = z.array(sshKey).max(16);
