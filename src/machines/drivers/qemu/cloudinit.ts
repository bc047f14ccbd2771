/**
 * The identity for images that others made: a small disk that cloud-init looks for at boot and takes its instructions
 * from (its datasource NoCloud: a file system labelled `cidata` with meta-data, user-data and network-config,
 * https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html). It does so once per machine, by the
 * instance's id: a copy of a machine becomes somebody of its own. What is not said stays as the image has it: the root
 * partition and its file system grow, the power is left alone.
 */
import { chown, rename, rm, writeFile } from 'node:fs/promises';
import { isoImage } from '#images/disk/iso9660.ts';
import type { Identity } from './identity.ts';

/** Cannot be chosen: cloud-init looks for this one. */
const label = 'cidata';
/** Secrets are in it: also where a guest mounts it, it is root's. */
const mode = 0o400;

/**
 * JSON, which is YAML, in ASCII: readers of YAML refuse some characters that JSON may have, and take the two halves of
 * one beyond U+FFFF for two.
 */
export function yamlOf(value: unknown): string {
  return `${JSON.stringify(value).replaceAll(/[^\u0020-\u007e]/gu, escaped)}\n`;
}

function escaped(character: string): string {
  const code = (character.codePointAt(0) ?? 0).toString(16);
  return code.length > 4 ? `\\U${code.padStart(8, '0')}` : `\\u${code.padStart(4, '0')}`;
}

/** https://cloudinit.readthedocs.io/en/latest/reference/modules.html */
function userData({ authorizedKeys, hostKey, hostname, passwordHash }: Identity) {
  return {
    disable_root: false,
    // an empty list is not allowed
    ...(authorizedKeys.length > 0 ? { ssh_authorized_keys: authorizedKeys } : {}),
    ssh_keys: { ed25519_private: hostKey.openssh, ed25519_public: `${hostKey.public} root@${hostname}\n` },
    manage_etc_hosts: 'localhost',
    // not chpasswd, which comes after the prompt on the console
    ...(passwordHash === null
      ? {}
      : { users: ['default', { name: 'root', lock_passwd: false, hashed_passwd: passwordHash }] }),
  };
}

/** https://cloudinit.readthedocs.io/en/latest/reference/network-config-format-v2.html */
function networkConfig({ network: { mac, address, prefix, gateway, dns } }: Identity) {
  const interfaceName = 'eth0'; // stated, because not every renderer finds a name by its MAC
  return {
    version: 2,
    ethernets: {
      [interfaceName]: {
        match: { macaddress: mac },
        'set-name': interfaceName,
        addresses: [`${address}/${prefix}`],
        routes: [{ to: '0.0.0.0/0', via: gateway }],
        nameservers: { addresses: dns },
      },
    },
  };
}

/** The disk. Pure. */
export function cloudInitDisk(identity: Identity): Buffer {
  const { id, hostname } = identity;
  return isoImage(label, [
    { name: 'meta-data', mode, data: yamlOf({ 'instance-id': id, 'local-hostname': hostname }) },
    { name: 'user-data', mode, data: `#cloud-config\n${yamlOf(userData(identity))}` },
    { name: 'network-config', mode, data: yamlOf(networkConfig(identity)) },
  ]);
}

/** Writes it anew, for nobody but the QEMU with that id. */
export async function writeCloudInitDisk(
  path: string,
  identity: Identity,
  { uid }: { uid: number },
): Promise<void> {
  const beside = `${path}.new`;
  await rm(beside, { force: true });
  await writeFile(beside, cloudInitDisk(identity), { mode: 0o600, flag: 'wx' });
  await chown(beside, uid, uid);
  await rename(beside, path);
}
