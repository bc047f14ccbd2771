/**
 * Numbers of the netlink protocols we speak, with the headers they are from.
 * linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/veth.h.
 */

export const NETLINK_ROUTE = 0;

/** Message types: linux/netlink.h, linux/rtnetlink.h */
export const messageTypes = {
  error: 2,
  done: 3,
  newLink: 16,
  deleteLink: 17,
  getLink: 18,
  setLink: 19,
  newAddress: 20,
  newRoute: 24,
  newQdisc: 36,
  deleteQdisc: 37,
} as const;

/** Header flags: linux/netlink.h */
export const flags = {
  request: 0x001,
  multi: 0x002,
  ack: 0x004,
  dumpInterrupted: 0x010,
  dump: 0x300,
  replace: 0x100,
  excl: 0x200,
  create: 0x400,
} as const;

/** Interface flags: linux/if.h */
export const linkFlags = { up: 0x1, lowerUp: 0x10000 } as const;

/** Attributes of a link message: linux/if_link.h */
export const linkAttributes = {
  address: 1,
  name: 3,
  mtu: 4,
  master: 10,
  protocolInfo: 12,
  info: 18,
  netnsPid: 19,
  alias: 20,
  stats64: 23,
  netnsFd: 28,
} as const;

/** Inside linkAttributes.info: linux/if_link.h */
export const infoAttributes = { kind: 1, data: 2 } as const;

/** Inside infoAttributes.data of a veth: linux/veth.h */
export const vethAttributes = { peer: 1 } as const;

/** Inside infoAttributes.data of a bridge: linux/if_link.h (IFLA_BR_...) */
export const bridgeAttributes = { stpState: 5, multicastSnooping: 23 } as const;

/** Inside linkAttributes.protocolInfo of family AF_BRIDGE: linux/if_link.h (IFLA_BRPORT_...) */
export const portAttributes = {
  guard: 5,
  protect: 6,
  learning: 8,
  unicastFlood: 9,
  isolated: 33,
} as const;

/** linux/if_addr.h */
export const addressAttributes = { address: 1, local: 2, broadcast: 4 } as const;

/** linux/rtnetlink.h */
export const routeAttributes = { destination: 1, outputInterface: 4, gateway: 5 } as const;

/** linux/rtnetlink.h (TCA_...) and, inside the options of a token bucket, linux/pkt_sched.h (TCA_TBF_...) */
export const qdiscAttributes = { kind: 1, options: 2 } as const;
export const bucketAttributes = { parameters: 1, rate64: 4, burst: 6 } as const;

/** Attributes of an extended acknowledgement: linux/netlink.h */
export const ackAttributes = { message: 1 } as const;

export const families = { unspecified: 0, inet: 2, bridge: 7 } as const;
