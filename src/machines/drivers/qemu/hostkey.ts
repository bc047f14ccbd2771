/** ed25519 host keys in the formats of the servers that read them. Pure. */
import { createHash } from 'node:crypto';

const type = 'ssh-ed25519';

/** A string of RFC 4251: four bytes length, big endian, and the bytes. */
function sshString(value: string | Uint8Array): Buffer {
  const bytes = Buffer.from(value);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

const publicBlob = (half: Uint8Array): Buffer => Buffer.concat([sshString(type), sshString(half)]);

/** `ssh-ed25519 AAAA...`, as in known_hosts and authorized_keys. */
export function opensshPublicKey(half: Uint8Array): string {
  return `${type} ${publicBlob(half).toString('base64')}`;
}

/** Not encrypted, without a comment: PROTOCOL.key of OpenSSH. */
export function opensshPrivateKey(seed: Uint8Array, half: Uint8Array): string {
  // The two check numbers are compared after decryption, and nothing is encrypted here: any will do.
  const check = createHash('sha256').update(seed).digest().subarray(0, 4);
  const secret = Buffer.concat([
    check,
    check,
    sshString(type),
    sshString(half),
    sshString(Buffer.concat([seed, half])),
    sshString(''),
  ]);
  const padding = Buffer.from([1, 2, 3, 4, 5, 6, 7].slice(0, (8 - (secret.length % 8)) % 8));
  const one = Buffer.alloc(4);
  one.writeUInt32BE(1);
  const all = Buffer.concat([
    Buffer.from('openssh-key-v1\0'),
    sshString('none'),
    sshString('none'),
    sshString(''),
    one,
    sshString(publicBlob(half)),
    sshString(Buffer.concat([secret, padding])),
  ]);
  const lines = all.toString('base64').match(/.{1,70}/g) ?? [];
  return ['-----BEGIN OPENSSH PRIVATE KEY-----', ...lines, '-----END OPENSSH PRIVATE KEY-----', ''].join(
    '\n',
  );
}

/** buf_put_ed25519_priv_key of dropbear (ed25519.c): both halves in one string. */
export function dropbearKey(seed: Uint8Array, half: Uint8Array): Buffer {
  return Buffer.concat([sshString(type), sshString(Buffer.concat([seed, half]))]);
}
