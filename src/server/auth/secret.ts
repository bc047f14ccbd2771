/**
 * Token secrets: `carrel_` and 256 random bits in base 32 (RFC 4648, lower case, no padding). So much
 * randomness needs no slow hash: the server keeps the SHA-256 and looks that up, which leaks nothing in time.
 */
import { createHash, randomBytes } from 'node:crypto';

const prefix = 'carrel_';
const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';
const pattern = /^carrel_[a-z2-7]{52}$/;

function base32(bytes: Uint8Array): string {
  let text = '';
  let bits = 0;
  let held = 0;
  for (const byte of bytes) {
    held = (held << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += alphabet.charAt((held >> bits) & 31);
    }
    held &= (1 << bits) - 1;
  }
  return bits > 0 ? text + alphabet.charAt((held << (5 - bits)) & 31) : text;
}

/** A new secret; show it once, store `hashSecret` of it. */
export function newSecret(): string {
  return prefix + base32(randomBytes(32));
}

export function hashSecret(secret: string): Buffer {
  return createHash('sha256').update(secret).digest();
}

/** `Bearer carrel_...` -> the secret; undefined for anything else. */
export function secretOf(authorization: string | undefined): string | undefined {
  const match = authorization === undefined ? undefined : /^Bearer +(\S+)$/i.exec(authorization)?.[1];
  return match !== undefined && pattern.test(match) ? match : undefined;
}

/** A WebSocket subprotocol `carrel.bearer.<secret>`: for browsers, which cannot set headers there. */
export function secretOfProtocols(protocols: string | undefined): string | undefined {
  for (const protocol of protocols?.split(',') ?? []) {
    const secret = protocol.trim();
    if (secret.startsWith('carrel.bearer.') && pattern.test(secret.slice(14))) return secret.slice(14);
  }
  return undefined;
}
