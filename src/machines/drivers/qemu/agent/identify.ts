/** The identity as the agent takes it: records of tag, length and content (src/native/agent/identify.c). Pure. */
import { addressBytes, parseAddress, parseMac } from '#fabric/addresses.ts';
import {
  type Identity,
  type IdentityFile,
  identityDirectories,
  networkFile,
  personalFiles,
} from '../identity.ts';
import { payload } from './payload.ts';

const tag = {
  directory: 1,
  file: 2,
  hostname: 3,
  password: 4,
  entropy: 5,
  clock: 6,
  network: 7,
  ssh: 8,
} as const;

function record(kind: number, content: Uint8Array): Uint8Array {
  return payload().u8(kind).u32(content.length).bytes(content).done();
}

function fileRecord({ path, mode, data }: IdentityFile): Uint8Array {
  return record(tag.file, payload().u32(mode).text(path).bytes(Buffer.from(data)).done());
}

const addressOf = (text: string): number[] => addressBytes(parseAddress(text));

function networkRecord({ mac, address, prefix, gateway }: Identity['network']): Uint8Array {
  return record(
    tag.network,
    Buffer.from([...parseMac(mac), ...addressOf(address), prefix, ...addressOf(gateway)]),
  );
}

const clockRecord = (nowMs: number): Uint8Array =>
  record(
    tag.clock,
    payload()
      .u64(nowMs * 1e6)
      .done(),
  );

/** The clock, by itself. */
export const encodeClock = (nowMs: number): Buffer => Buffer.from(clockRecord(nowMs));

/** Root's password, by itself. */
export function encodePassword(hash: string): Buffer {
  return Buffer.from(record(tag.password, payload().text(hash).done()));
}

function filesAfterPassword({ id, network, ...rest }: Identity): IdentityFile[] {
  const servers = network.dns.map((server) => `nameserver ${server}\n`).join('');
  return [
    networkFile({ id, network, ...rest }),
    { path: '/etc/resolv.conf', mode: 0o644, data: servers },
    { path: '/etc/carrel/identity', mode: 0o644, data: `${id}\n` },
  ];
}

/** The files that `encodeIdentity` writes. */
export const identityPaths = (identity: Identity): string[] =>
  [...personalFiles(identity), ...filesAfterPassword(identity)].map(({ path }) => path);

/** The network comes last: not a packet leaves under an old name. Its mark in the image is the last file. */
export function encodeIdentity(
  identity: Identity,
  { nowMs, entropy }: { nowMs: number; entropy: Uint8Array },
): Buffer {
  const { hostname, passwordHash, network } = identity;
  return Buffer.concat([
    record(tag.entropy, entropy),
    clockRecord(nowMs),
    record(tag.hostname, payload().text(hostname).done()),
    ...identityDirectories.map(({ path, mode }) =>
      record(tag.directory, payload().u32(mode).text(path).done()),
    ),
    ...personalFiles(identity).map(fileRecord),
    ...(passwordHash === null ? [] : [record(tag.password, payload().text(passwordHash).done())]),
    ...filesAfterPassword(identity).map(fileRecord),
    networkRecord(network),
    record(tag.ssh, new Uint8Array(0)),
  ]);
}
