/** An Ed25519 host key in the files of OpenSSH (PROTOCOL.key in its source) and of Dropbear (src/ed25519.c there). */
import type { IdentityFile } from './identity.ts';

const kind = 'ssh-ed25519';
/** The private part is padded to the block of the cipher, which is none: 8. */
const block = 8;

/** A length, and the bytes: `string` of RFC 4251. */
function string(bytes: Uint8Array | string): Buffer {
  const data = Buffer.from(bytes);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(data.length);
  return Buffer.concat([length, data]);
}

function openSshKey(secret: Buffer, open: Buffer, comment: string): string {
  // two equal numbers tell whether a passphrase was right; there is none
  const body = Buffer.concat([
    Buffer.alloc(8),
    string(kind),
    string(open),
    string(Buffer.concat([secret, open])),
    string(comment),
  ]);
  const padding = Buffer.from(
    Array.from({ length: (block - (body.length % block)) % block }, (_, i) => i + 1),
  );
  const one = Buffer.from([0, 0, 0, 1]);
  const key = Buffer.concat([
    Buffer.from('openssh-key-v1\0'),
    string('none'),
    string('none'),
    string(''),
    one,
    string(Buffer.concat([string(kind), string(open)])),
    string(Buffer.concat([body, padding])),
  ]);
  const lines = key.toString('base64').match(/.{1,70}/g) ?? [];
  return `-----BEGIN OPENSSH PRIVATE KEY-----\n${lines.join('\n')}\n-----END OPENSSH PRIVATE KEY-----\n`;
}

/** Both halves in base64, 32 bytes each. */
export function hostKeyFiles(
  key: { readonly private: string; readonly public: string },
  comment: string,
): IdentityFile[] {
  const secret = Buffer.from(key.private, 'base64');
  const open = Buffer.from(key.public, 'base64');
  const line = Buffer.concat([string(kind), string(open)]).toString('base64');
  return [
    { path: '/etc/ssh/ssh_host_ed25519_key', mode: 0o600, data: openSshKey(secret, open, comment) },
    { path: '/etc/ssh/ssh_host_ed25519_key.pub', mode: 0o644, data: `${kind} ${line} ${comment}\n` },
    {
      path: '/etc/dropbear/dropbear_ed25519_host_key',
      mode: 0o600,
      data: Buffer.concat([string(kind), string(Buffer.concat([secret, open]))]),
    },
  ];
}
