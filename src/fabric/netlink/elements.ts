/**
 * Elements of nftables sets, added and removed over netlink in one transaction: what `nft add element` does, in
 * a tenth of a millisecond and without a process. The sets themselves are declared by nft (see rules.ts).
 *
 * linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
 */
import { type AttributeValue, decodeAttributes, decodeList, encodeAttributes } from './codec.ts';
import { flags } from './constants.ts';
import type { BatchMessage, NetlinkSocket } from './socket.ts';

export const NETLINK_NETFILTER = 12;

const NFNL_MSG_BATCH_BEGIN = 0x10;
const NFNL_MSG_BATCH_END = 0x11;
const NFNL_SUBSYS_NFTABLES = 10;
const NFT_MSG_NEWSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 12;
const NFT_MSG_GETSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 13;
const NFT_MSG_DELSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 14;
const listAttributes = { table: 1, set: 2, elements: 3, element: 1 } as const;
const elementAttributes = { key: 1, data: 2, value: 1 } as const;
const IFNAMSIZ = 16;

/** Protocol families of tables: linux/netfilter.h */
export const tableFamilies = { ip: 2, bridge: 7 } as const;

export interface ElementChange {
  readonly verb: 'add' | 'delete';
  readonly family: keyof typeof tableFamilies;
  readonly table: string;
  readonly set: string;
  /** The fields of the key, each as its bytes. */
  readonly key: readonly Uint8Array[];
  /** For a map. */
  readonly data?: Uint8Array;
}

/** The bytes of an interface's name as a key. */
export function nameKey(name: string): Uint8Array {
  const bytes = new Uint8Array(IFNAMSIZ);
  bytes.set(Buffer.from(name).subarray(0, IFNAMSIZ - 1));
  return bytes;
}

/** The bytes of a packet mark: host order. */
export function markKey(mark: number): Uint8Array {
  return new Uint8Array(Uint32Array.of(mark).buffer);
}

/** Fields of a concatenated key stand in registers of four bytes: each is padded to that. */
export function concatenate(fields: readonly Uint8Array[]): Uint8Array {
  return Buffer.concat(
    fields.map((field) => {
      const padded = new Uint8Array((field.length + 3) & ~3);
      padded.set(field);
      return padded;
    }),
  );
}

/** struct nfgenmsg: u8 family, u8 version, u16 resource (big-endian). */
function header(family: number, resource: number): Uint8Array {
  return Uint8Array.of(family, 0, resource >> 8, resource & 255);
}

function valueOf(bytes: Uint8Array): AttributeValue {
  return { nested: [{ type: elementAttributes.value, value: { bytes } }] };
}

function encodeChange({ verb, family, table, set, key, data }: ElementChange): BatchMessage {
  const element = [
    { type: elementAttributes.key, value: valueOf(concatenate(key)) },
    ...(data ? [{ type: elementAttributes.data, value: valueOf(data) }] : []),
  ];
  const attributes = encodeAttributes([
    { type: listAttributes.table, value: { text: table } },
    { type: listAttributes.set, value: { text: set } },
    {
      type: listAttributes.elements,
      value: { nested: [{ type: listAttributes.element, value: { nested: element } }] },
    },
  ]);
  return {
    type: verb === 'add' ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM,
    flags: flags.ack | (verb === 'add' ? flags.create : 0),
    body: Buffer.concat([header(tableFamilies[family], 0), attributes]),
  };
}

/**
 * All changes or none. Adding what is there already is no error (with the same data); deleting what is not is.
 */
export async function changeElements(
  socket: NetlinkSocket,
  changes: readonly ElementChange[],
  object: string,
): Promise<void> {
  const edge = { flags: 0, body: header(0, NFNL_SUBSYS_NFTABLES) };
  await socket.batch(
    [
      { ...edge, type: NFNL_MSG_BATCH_BEGIN },
      ...changes.map(encodeChange),
      { ...edge, type: NFNL_MSG_BATCH_END },
    ],
    object,
  );
}

/**
 * The keys in a set, as bytes; empty if there is no such set. For an element that somebody else added, whose
 * other fields we do not know.
 */
export async function listKeys(
  socket: NetlinkSocket,
  { family, table, set }: Pick<ElementChange, 'family' | 'table' | 'set'>,
): Promise<Uint8Array[]> {
  const attributes = encodeAttributes([
    { type: listAttributes.table, value: { text: table } },
    { type: listAttributes.set, value: { text: set } },
  ]);
  const body = Buffer.concat([header(tableFamilies[family], 0), attributes]);
  const parts = await socket.dump(NFT_MSG_GETSETELEM, body, `set ${set}`);
  return parts.flatMap((part) => {
    const list = decodeAttributes(part.subarray(4)).get(listAttributes.elements) ?? new Uint8Array();
    return decodeList(list)
      .map((element) => decodeAttributes(element).get(elementAttributes.key) ?? new Uint8Array())
      .map((key) => decodeAttributes(key).get(elementAttributes.value) ?? new Uint8Array());
  });
}
