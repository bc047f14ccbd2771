/** How fast the processor's time-stamp counter counts: the kernel knows, and tells no program. */
import { setTimeout } from 'node:timers/promises';
import { timeStamp } from './syscalls.ts';

const spanMs = 40;
/** Between two looks at the clock another program may have had the processor: the tightest of several pairs counts. */
const tries = 50;

interface Pair {
  readonly ticks: bigint;
  readonly ns: bigint;
}

function look(): Pair {
  let best: Pair | undefined;
  let width = 0n;
  for (let done = 0; done < tries; done += 1) {
    const before = process.hrtime.bigint();
    const ticks = timeStamp();
    const after = process.hrtime.bigint();
    if (best && after - before >= width) continue;
    width = after - before;
    best = { ticks, ns: before + width / 2n };
  }
  return best ?? { ticks: timeStamp(), ns: process.hrtime.bigint() };
}

/** In kHz, to a ten-thousandth; takes some 40 ms. */
export async function measureTscKhz(): Promise<number> {
  const first = look();
  await setTimeout(spanMs);
  const last = look();
  return Math.round((Number(last.ticks - first.ticks) / Number(last.ns - first.ns)) * 1e6);
}
