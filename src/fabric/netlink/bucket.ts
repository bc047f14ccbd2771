/**
 * The token bucket qdisc as netlink attributes: tc-tbf(8), linux/pkt_sched.h (struct tc_tbf_qopt),
 * net/sched/sch_tbf.c. What does not fit waits, up to a limit, and what does not fit there either is lost.
 */
import type { Attribute } from './codec.ts';
import { bucketAttributes } from './constants.ts';

const TC_H_ROOT = 0xffffffff;
const TC_LINKLAYER_ETHERNET = 1;
/** Nanoseconds in a tick of the packet scheduler, whatever the clock: 64 (net/pkt_sched.h, PSCHED_SHIFT). */
const TICK = 64;

/** struct tcmsg: u8 family and padding, s32 index, u32 handle, u32 parent, u32 info. */
export function qdiscHeader(index: number): Uint8Array {
  const header = new Uint8Array(20);
  const view = new DataView(header.buffer);
  view.setInt32(4, index, true);
  view.setUint32(8, 0x10000, true); // 1:
  view.setUint32(12, TC_H_ROOT, true);
  return header;
}

/** What may go at once: a hundredth of a second, and at least a few frames. */
export function burstOf(bytesPerSecond: number): number {
  return Math.min(0x7fffffff, Math.max(16_384, Math.ceil(bytesPerSecond / 100)));
}

/** The options of a bucket that is filled at this rate. */
export function bucket(bytesPerSecond: number): readonly Attribute[] {
  const burst = burstOf(bytesPerSecond);
  const parameters = new DataView(new ArrayBuffer(36));
  // struct tc_ratespec. With the link layer stated the kernel computes times itself and wants no table of them
  parameters.setUint8(1, TC_LINKLAYER_ETHERNET);
  parameters.setUint32(8, Math.min(bytesPerSecond, 0xffffffff), true);
  // what may wait: 50 ms, so that a full queue does not make a connection slow to answer
  parameters.setUint32(24, Math.min(0x7fffffff, burst + Math.ceil(bytesPerSecond / 20)), true);
  parameters.setUint32(28, Math.min(0x7fffffff, Math.ceil(((burst / bytesPerSecond) * 1e9) / TICK)), true);
  const rate = new Uint8Array(BigUint64Array.of(BigInt(bytesPerSecond)).buffer);
  return [
    { type: bucketAttributes.parameters, value: { bytes: new Uint8Array(parameters.buffer) } },
    ...(bytesPerSecond > 0xffffffff ? [{ type: bucketAttributes.rate64, value: { bytes: rate } }] : []),
    { type: bucketAttributes.burst, value: { u32: burst } },
  ];
}
