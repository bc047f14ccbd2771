/** Links, addresses and routes of one network namespace: what `ip` does, without a process. rtnetlink(7). */
import { CarrelError } from '#base/errors.ts';
import { addressBytes, broadcastOf, formatMac, networkOf, parseMac } from '../addresses.ts';
import { type Attribute, decodeAttributes, encodeAttributes, readText, readU32 } from './codec.ts';
import { bucket, qdiscHeader } from './bucket.ts';
import {
  NETLINK_ROUTE,
  addressAttributes,
  bridgeAttributes,
  families,
  flags,
  infoAttributes,
  linkAttributes,
  linkFlags,
  messageTypes,
  portAttributes,
  qdiscAttributes,
  routeAttributes,
  vethAttributes,
} from './constants.ts';
import { type NetlinkSocket, openNetlink } from './socket.ts';

export interface Link {
  readonly index: number;
  readonly name: string;
  /** `bridge`, `veth`, `tun`; undefined for the loopback and hardware. */
  readonly kind: string | undefined;
  readonly mac: string | undefined;
  readonly mtu: number;
  readonly up: boolean;
  /** Index of the bridge it is a port of. */
  readonly master: number | undefined;
  /** The note that `configure` left. */
  readonly alias: string | undefined;
  /** Bytes that came in by it. */
  readonly receivedBytes: number;
  /** Bytes that went out by it. */
  readonly sentBytes: number;
}

/** Where a link goes: a process's network namespace, by pid or by an open descriptor. */
export type NetnsOf = { readonly pid: number } | { readonly fd: number };

const IFINFO = 16;

/** struct ifinfomsg: u8 family, pad, u16 type, s32 index, u32 flags, u32 change mask. */
function linkHeader({
  family = families.unspecified,
  index = 0,
  up = false,
}: { family?: number; index?: number; up?: boolean } = {}): Uint8Array {
  const header = new Uint8Array(IFINFO);
  const view = new DataView(header.buffer);
  view.setUint8(0, family);
  view.setInt32(4, index, true);
  if (up) {
    view.setUint32(8, linkFlags.up, true);
    view.setUint32(12, linkFlags.up, true);
  }
  return header;
}

function body(header: Uint8Array, attributes: readonly Attribute[] = []): Uint8Array {
  return Buffer.concat([header, encodeAttributes(attributes)]);
}

/** Interface names: what the kernel's dev_valid_name accepts, and no more than 15 bytes (linux/if.h IFNAMSIZ). */
function nameAttribute(name: string): Attribute {
  if (!/^[\w.-]{1,15}$/.test(name) || name === '.' || name === '..')
    throw new CarrelError('internal', `${JSON.stringify(name)} cannot be an interface's name`);
  return { type: linkAttributes.name, value: { text: name } };
}

function macAttribute(mac: string): Attribute {
  return { type: linkAttributes.address, value: { bytes: parseMac(mac) } };
}

function netnsAttribute(netns: NetnsOf): Attribute {
  return 'pid' in netns
    ? { type: linkAttributes.netnsPid, value: { u32: netns.pid } }
    : { type: linkAttributes.netnsFd, value: { u32: netns.fd } };
}

/** One of the counters of struct rtnl_link_stats64 (linux/if_link.h), exact up to 8 PiB. */
function counter(stats: Uint8Array | undefined, offset: number): number {
  if (!stats || stats.length < offset + 8) return 0;
  return Number(new DataView(stats.buffer, stats.byteOffset, stats.byteLength).getBigUint64(offset, true));
}

function parseLink(bytes: Uint8Array): Link | undefined {
  const index = readU32(bytes, 4);
  const bits = readU32(bytes, 8);
  if (index === undefined || bits === undefined) return undefined;
  const attributes = decodeAttributes(bytes.subarray(IFINFO));
  const name = readText(attributes.get(linkAttributes.name));
  if (name === undefined) return undefined;
  const mac = attributes.get(linkAttributes.address);
  const info = decodeAttributes(attributes.get(linkAttributes.info) ?? new Uint8Array());
  return {
    index,
    name,
    kind: readText(info.get(infoAttributes.kind)),
    mac: mac && formatMac(mac),
    mtu: readU32(attributes.get(linkAttributes.mtu)) ?? 0,
    up: (bits & linkFlags.up) !== 0,
    master: readU32(attributes.get(linkAttributes.master)),
    alias: readText(attributes.get(linkAttributes.alias)),
    receivedBytes: counter(attributes.get(linkAttributes.stats64), 16),
    sentBytes: counter(attributes.get(linkAttributes.stats64), 24),
  };
}

export interface LinkSettings {
  readonly mtu?: number;
  readonly master?: number;
  /** At most 255 bytes (linux/if.h IFALIASZ). */
  readonly alias?: string;
  readonly up?: boolean;
}

export interface Links extends Disposable {
  list(): Promise<Link[]>;
  find(name: string): Promise<Link | undefined>;
  /** A bridge without spanning tree and multicast snooping, up; false if the name is there already. */
  createBridge(name: string, options: { mac: string }): Promise<boolean>;
  /** Two ends of a wire: `name` here, a port of bridge `master` and up; the other in `peer.netns`. */
  createVeth(options: {
    name: string;
    master: number;
    mtu?: number;
    peer: { netns: NetnsOf; name: string; mac: string };
  }): Promise<void>;
  /** What a link can be told in one request: MTU, the bridge it is a port of, a note for whoever finds it, up. */
  configure(name: string, options: LinkSettings): Promise<void>;
  setUp(name: string): Promise<void>;
  setMaster(name: string, master: number): Promise<void>;
  /** Flags of a bridge's port; unnamed ones stay as they are. */
  setPort(name: string, options: Partial<Record<keyof typeof portAttributes, boolean>>): Promise<void>;
  /** An address on an interface; nothing happens if it is there. */
  addAddress(index: number, address: number, prefix: number): Promise<void>;
  /** The way to everything else. */
  addDefaultRoute(gateway: number): Promise<void>;
  /** What goes out by an interface goes no faster (token bucket, tc-tbf(8)); undefined: as fast as it can. */
  setRate(index: number, bytesPerSecond: number | undefined): Promise<void>;
  /** False if there was none. */
  delete(name: string): Promise<boolean>;
  close(): void;
}

/** Opens the links of the network namespace the calling thread is in. */
export function openLinks(socket: NetlinkSocket = openNetlink(NETLINK_ROUTE)): Links {
  const set = async (name: string, header: Uint8Array, attributes: readonly Attribute[]): Promise<void> => {
    await socket.request(messageTypes.setLink, body(header, [nameAttribute(name), ...attributes]), {
      object: `interface ${name}`,
    });
  };
  const requireLink = async (name: string): Promise<Link> => {
    const link = await find(name);
    if (!link) throw new CarrelError('internal', `interface ${name} is not there`);
    return link;
  };
  const list = async (): Promise<Link[]> => {
    const found = await socket.dump(messageTypes.getLink, body(linkHeader()), 'interfaces');
    return found.map(parseLink).filter((link) => link !== undefined);
  };
  const find = async (name: string): Promise<Link | undefined> => {
    const object = `interface ${name}`;
    const found = await socket.get(messageTypes.getLink, body(linkHeader(), [nameAttribute(name)]), {
      object,
      absent: ['ENODEV'],
    });
    return found && parseLink(found);
  };

  return {
    list,
    find,
    async createBridge(name, { mac }) {
      const settings: readonly Attribute[] = [
        { type: bridgeAttributes.stpState, value: { u32: 0 } },
        { type: bridgeAttributes.multicastSnooping, value: { u8: 0 } },
      ];
      const errno = await socket.request(
        messageTypes.newLink,
        body(linkHeader({ up: true }), [
          nameAttribute(name),
          // without one of its own a bridge takes a port's, and changes it as ports come and go
          macAttribute(mac),
          {
            type: linkAttributes.info,
            value: {
              nested: [
                { type: infoAttributes.kind, value: { text: 'bridge' } },
                { type: infoAttributes.data, value: { nested: settings } },
              ],
            },
          },
        ]),
        { object: `bridge ${name}`, flags: flags.create | flags.excl, accept: ['EEXIST'] },
      );
      return errno === undefined;
    },
    async createVeth({ name, master, mtu = 1500, peer }) {
      const peerAttributes: readonly Attribute[] = [
        nameAttribute(peer.name),
        macAttribute(peer.mac),
        { type: linkAttributes.mtu, value: { u32: mtu } },
        netnsAttribute(peer.netns),
      ];
      await socket.request(
        messageTypes.newLink,
        body(linkHeader({ up: true }), [
          nameAttribute(name),
          { type: linkAttributes.mtu, value: { u32: mtu } },
          { type: linkAttributes.master, value: { u32: master } },
          {
            type: linkAttributes.info,
            value: {
              nested: [
                { type: infoAttributes.kind, value: { text: 'veth' } },
                {
                  type: infoAttributes.data,
                  value: {
                    nested: [
                      { type: vethAttributes.peer, value: { header: linkHeader(), nested: peerAttributes } },
                    ],
                  },
                },
              ],
            },
          },
        ]),
        { object: `wire ${name}`, flags: flags.create | flags.excl },
      );
    },
    async configure(name, { mtu, master, alias, up = false }) {
      const attributes: Attribute[] = [];
      if (mtu !== undefined) attributes.push({ type: linkAttributes.mtu, value: { u32: mtu } });
      if (master !== undefined) attributes.push({ type: linkAttributes.master, value: { u32: master } });
      if (alias !== undefined)
        attributes.push({ type: linkAttributes.alias, value: { bytes: Buffer.from(alias) } });
      await set(name, linkHeader({ up }), attributes);
    },
    setUp: async (name) => await set(name, linkHeader({ up: true }), []),
    setMaster: async (name, master) =>
      await set(name, linkHeader(), [{ type: linkAttributes.master, value: { u32: master } }]),
    async setPort(name, options) {
      const nested: Attribute[] = [];
      for (const [key, type] of Object.entries(portAttributes)) {
        const value = Object.entries(options).find(([option]) => option === key)?.[1];
        if (value !== undefined) nested.push({ type, value: { u8: value ? 1 : 0 } });
      }
      const header = linkHeader({ family: families.bridge, index: (await requireLink(name)).index });
      await socket.request(
        messageTypes.setLink,
        body(header, [{ type: linkAttributes.protocolInfo, value: { nested } }]),
        {
          object: `bridge port ${name}`,
        },
      );
    },
    async addAddress(index, address, prefix) {
      const header = new Uint8Array(8); // struct ifaddrmsg: family, prefix length, flags, scope, u32 index
      header[0] = families.inet;
      header[1] = prefix;
      new DataView(header.buffer).setUint32(4, index, true);
      const bytes = Uint8Array.from(addressBytes(address));
      const broadcast = Uint8Array.from(addressBytes(broadcastOf(networkOf(address, prefix))));
      await socket.request(
        messageTypes.newAddress,
        body(header, [
          { type: addressAttributes.local, value: { bytes } },
          { type: addressAttributes.address, value: { bytes } },
          ...(prefix < 31 ? [{ type: addressAttributes.broadcast, value: { bytes: broadcast } }] : []),
        ]),
        {
          object: `address ${bytes.join('.')}/${prefix}`,
          flags: flags.create | flags.excl,
          accept: ['EEXIST'],
        },
      );
    },
    async addDefaultRoute(gateway) {
      // struct rtmsg: family, dst len, src len, tos, table (main), protocol (static), scope (universe), type (unicast), flags
      const header = Uint8Array.of(families.inet, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0);
      await socket.request(
        messageTypes.newRoute,
        body(header, [
          { type: routeAttributes.gateway, value: { bytes: Uint8Array.from(addressBytes(gateway)) } },
        ]),
        { object: 'default route', flags: flags.create | flags.excl, accept: ['EEXIST'] },
      );
    },
    async setRate(index, bytesPerSecond) {
      const none = bytesPerSecond === undefined;
      await socket.request(
        none ? messageTypes.deleteQdisc : messageTypes.newQdisc,
        body(
          qdiscHeader(index),
          none
            ? []
            : [
                { type: qdiscAttributes.kind, value: { text: 'tbf' } },
                { type: qdiscAttributes.options, value: { nested: bucket(bytesPerSecond) } },
              ],
        ),
        {
          object: `rate of interface ${index}`,
          flags: none ? 0 : flags.create | flags.replace,
          accept: none ? ['ENOENT', 'EINVAL'] : [], // there is none, or the one every interface has
        },
      );
    },
    async delete(name) {
      const errno = await socket.request(messageTypes.deleteLink, body(linkHeader(), [nameAttribute(name)]), {
        object: `interface ${name}`,
        accept: ['ENODEV'],
      });
      return errno === undefined;
    },
    close: () => socket.close(),
    [Symbol.dispose]: () => socket.close(),
  };
}
