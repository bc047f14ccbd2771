/**
 * What makes a machine somebody: names, keys, addresses. The facts are made here, once, and written by two writers:
 * seed.ts for a cold boot, agent/identify.ts into a running clone of a template.
 */
import { createPrivateKey, createPublicKey, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { writeFileAtomic } from '#host/files.ts';
import type { MachineSpec } from '../../driver.ts';
import { dropbearKey, opensshPrivateKey, opensshPublicKey } from './hostkey.ts';

const hex = (bytes: number): z.ZodString => z.string().regex(new RegExp(`^[0-9a-f]{${bytes * 2}}$`));

/** What is drawn by lot, once per machine. In its directory, where only the host's root can read it. */
const secretsSchema = z.strictObject({
  format: z.literal(1),
  /** machine-id(5) */
  machineId: hex(16),
  /** The private half of the ed25519 host key (RFC 8032, 5.1.5). */
  hostKey: hex(32),
  /** Root's password as crypt(5) writes it; null: none is valid. */
  passwordHash: z
    .string()
    .regex(/^[!-9;-~]{1,256}$/)
    .nullable(),
});
export type Secrets = z.output<typeof secretsSchema>;

export interface Identity {
  /** The machine's id: an image that carries it has been given everything else already. */
  readonly id: string;
  readonly hostname: string;
  readonly machineId: string;
  readonly authorizedKeys: readonly string[];
  readonly hostKey: {
    /** PEM, as sshd reads it. */
    readonly openssh: string;
    /** One line. */
    readonly public: string;
    readonly dropbear: Uint8Array;
  };
  readonly passwordHash: string | null;
  readonly network: {
    readonly mac: string;
    readonly address: string;
    readonly prefix: number;
    readonly gateway: string;
    readonly dns: readonly string[];
  };
}

export function makeSecrets(): Secrets {
  return {
    format: 1,
    machineId: randomBytes(16).toString('hex'),
    hostKey: randomBytes(32).toString('hex'),
    passwordHash: null,
  };
}

/** RFC 8410: what stands before the 32 bytes of an ed25519 key in PKCS #8. */
const pkcs8Head = Buffer.from('302e020100300506032b657004220420', 'hex');
/** Before the 32 bytes of its public half in SubjectPublicKeyInfo. */
const spkiHeadBytes = 12;

function publicHalf(seed: Buffer): Buffer {
  const key = createPrivateKey({ key: Buffer.concat([pkcs8Head, seed]), format: 'der', type: 'pkcs8' });
  return createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(spkiHeadBytes);
}

/** The facts of a machine. Pure: the same secrets give the same bytes. */
export function makeIdentity(
  { id, name, sshKeys, network }: Pick<MachineSpec, 'id' | 'name' | 'sshKeys' | 'network'>,
  { machineId, hostKey, passwordHash }: Secrets,
): Identity {
  const seed = Buffer.from(hostKey, 'hex');
  const half = publicHalf(seed);
  const { mac, address, prefix, gateway } = network;
  return {
    id,
    hostname: name,
    machineId,
    authorizedKeys: sshKeys,
    hostKey: {
      openssh: opensshPrivateKey(seed, half),
      public: opensshPublicKey(half),
      dropbear: dropbearKey(seed, half),
    },
    passwordHash,
    network: { mac, address, prefix, gateway, dns: [gateway] },
  };
}

/** The machine's secrets; made and written down when it has none yet. */
export async function secretsOf(path: string): Promise<Secrets> {
  const known = await readSecrets(path);
  if (known) return known;
  const secrets = makeSecrets();
  await writeSecrets(path, secrets);
  return secrets;
}

/** Only root of the host may read them. */
export async function writeSecrets(path: string, secrets: Secrets): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(secrets)}\n`, { mode: 0o600 });
}

async function readSecrets(path: string): Promise<Secrets | undefined> {
  try {
    return secretsSchema.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    if (error instanceof SyntaxError || error instanceof z.ZodError)
      throw new CarrelError('internal', `${path} does not hold the secrets of a machine`, { cause: error });
    throw error;
  }
}

/** A file that says who the machine is. */
export interface IdentityFile {
  readonly path: string;
  readonly mode: number;
  readonly data: string | Uint8Array;
}

/** Directories that such files need, from the top; where they are they are given this mode. */
export const identityDirectories: readonly { readonly path: string; readonly mode: number }[] = [
  { path: '/etc', mode: 0o755 },
  { path: '/etc/carrel', mode: 0o755 },
  { path: '/etc/ssh', mode: 0o755 },
  { path: '/etc/dropbear', mode: 0o700 },
  { path: '/root', mode: 0o700 },
  { path: '/root/.ssh', mode: 0o700 },
];

/** Written once: whoever is root there may change them afterwards. */
export function personalFiles({ hostname, machineId, authorizedKeys, hostKey }: Identity): IdentityFile[] {
  return [
    { path: '/etc/hostname', mode: 0o644, data: `${hostname}\n` },
    { path: '/etc/hosts', mode: 0o644, data: hostsText(hostname) },
    { path: '/etc/machine-id', mode: 0o444, data: `${machineId}\n` },
    {
      path: '/root/.ssh/authorized_keys',
      mode: 0o600,
      data: authorizedKeys.map((key) => `${key}\n`).join(''),
    },
    { path: '/etc/ssh/ssh_host_ed25519_key', mode: 0o600, data: hostKey.openssh },
    { path: '/etc/ssh/ssh_host_ed25519_key.pub', mode: 0o644, data: `${hostKey.public} root@${hostname}\n` },
    { path: '/etc/dropbear/dropbear_ed25519_host_key', mode: 0o600, data: hostKey.dropbear },
  ];
}

/** Written at every boot: an address is the host's to give. Read by src/native/early/machine.c. */
export function networkFile({ network }: Identity): IdentityFile {
  const { mac, address, prefix, gateway, dns } = network;
  const lines = [
    `mac=${mac}`,
    `address=${address}`,
    `prefix=${prefix}`,
    `gateway=${gateway}`,
    `dns=${dns.join(' ')}`,
  ];
  return { path: '/etc/carrel/network', mode: 0o644, data: `${lines.join('\n')}\n` };
}

function hostsText(hostname: string): string {
  return `127.0.0.1 localhost\n127.0.1.1 ${hostname}\n::1 localhost ip6-localhost ip6-loopback\n`;
}
