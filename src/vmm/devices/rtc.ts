/**
 * The clock of a PC, and the memory beside it: Motorola MC146818, ports 0x70 (which register) and 0x71 (its
 * value). The time is the host's, in UTC; setting it is accepted and without effect.
 */
import type { ByteDevice } from './bytewise.ts';

const reg = {
  seconds: 0,
  minutes: 2,
  hours: 4,
  weekday: 6,
  day: 7,
  month: 8,
  year: 9,
  a: 10,
  b: 11,
  c: 12,
  d: 13,
  century: 0x32,
} as const;

/** A: a divider for 32,768 Hz, and no update under way. */
const STATUS_A = 0x26;
/** B: 24 hours, numbers in BCD. */
const STATUS_B = 0x02;
/** D: the battery is good. */
const STATUS_D = 0x80;

const bytesOfMemory = 128;
export const rtcPorts = 2;
/** One for the index, the rest for the memory. */
export const rtcWords = 1 + bytesOfMemory;

const bcd = (value: number): number => (Math.floor(value / 10) << 4) | (value % 10);

export interface RtcOptions {
  /** `rtcWords` words, zeros at first. */
  readonly words: Int32Array;
  readonly now?: () => Date;
}

export class Rtc implements ByteDevice {
  readonly name = 'rtc';
  readonly #w: Int32Array;
  readonly #now: () => Date;

  constructor({ words, now = () => new Date() }: RtcOptions) {
    this.#w = words;
    this.#now = now;
  }

  read(offset: number): number {
    if (offset === 0) return 0xff; // the index cannot be read back
    const index = this.#w[0] ?? 0;
    const now = this.#now();
    switch (index) {
      case reg.seconds:
        return bcd(now.getUTCSeconds());
      case reg.minutes:
        return bcd(now.getUTCMinutes());
      case reg.hours:
        return bcd(now.getUTCHours());
      case reg.weekday:
        return bcd(now.getUTCDay() + 1);
      case reg.day:
        return bcd(now.getUTCDate());
      case reg.month:
        return bcd(now.getUTCMonth() + 1);
      case reg.year:
        return bcd(now.getUTCFullYear() % 100);
      case reg.century:
        return bcd(Math.floor(now.getUTCFullYear() / 100));
      case reg.a:
        return STATUS_A;
      case reg.b:
        return STATUS_B;
      case reg.c:
        return 0; // no interrupt of its own
      case reg.d:
        return STATUS_D;
      default:
        return this.#w[1 + index] ?? 0;
    }
  }

  write(offset: number, value: number): void {
    // the highest bit of the index masks NMIs
    if (offset === 0) this.#w[0] = value & (bytesOfMemory - 1);
    else this.#w[1 + (this.#w[0] ?? 0)] = value & 0xff;
  }
}
