/**
 * A serial port: the UART 16550A (National Semiconductor's data sheet PC16550D, and what Linux's 8250 driver
 * relies on). What is sent is gone at once, so that the transmitter is always empty; what is received waits in a
 * ring that is larger than the chip's, because nobody outside could be told to stop.
 *
 * All registers are words of one array. Over shared memory, with a lock around it, every thread may hold such an
 * object over the same words.
 */
import type { ByteDevice } from './bytewise.ts';
import type { IrqLine } from './device.ts';

/** Registers, by offset; with DLAB set the first two are the divisor. */
const register = { data: 0, ier: 1, iirFcr: 2, lcr: 3, mcr: 4, lsr: 5, msr: 6, scratch: 7 } as const;

const IER = { received: 1, empty: 2, line: 4, modem: 8, all: 0x0f } as const;
const IIR = { modem: 0x00, none: 0x01, empty: 0x02, received: 0x04, line: 0x06, fifos: 0xc0 } as const;
const FCR = { enable: 1, clearReceiver: 2, kept: 0xc9 } as const;
const LCR = { dlab: 0x80 } as const;
const MCR = { dtr: 1, rts: 2, out1: 4, out2: 8, loop: 0x10, all: 0x1f } as const;
const LSR = { data: 0x01, overrun: 0x02, empty: 0x60 } as const;
const MSR = { cts: 0x10, dsr: 0x20, ri: 0x40, dcd: 0x80 } as const;

/** Where each register has its word. */
const word = {
  ier: 0,
  fcr: 1,
  lcr: 2,
  mcr: 3,
  scratch: 4,
  divisorLow: 5,
  divisorHigh: 6,
  /** The transmitter became empty, and the guest has not yet asked what the interrupt was about. */
  emptyPending: 7,
  overrun: 8,
  /** Changes of modem lines that were not yet read. */
  deltas: 9,
  /** Level of the interrupt. */
  level: 10,
  head: 11,
  tail: 12,
  ring: 16,
} as const;

/** Bytes that wait for the guest at most. */
const ringBytes = 4096;

export const serialWords = word.ring + ringBytes;
/** Ports of one UART. */
export const serialPorts = 8;

export interface SerialOptions {
  /** `serialWords` words; zeros are a UART after reset. */
  readonly words: Int32Array;
  readonly irq: IrqLine;
  /** Gets each byte that the guest sends. */
  readonly send: (byte: number) => void;
}

export class Serial implements ByteDevice {
  readonly name = 'serial';
  readonly #w: Int32Array;
  readonly #irq: IrqLine;
  readonly #send: (byte: number) => void;

  constructor({ words, irq, send }: SerialOptions) {
    this.#w = words;
    this.#irq = irq;
    this.#send = send;
  }

  #get(name: keyof typeof word): number {
    return this.#w[word[name]] ?? 0;
  }

  #set(name: keyof typeof word, value: number): void {
    this.#w[word[name]] = value;
  }

  get #waiting(): number {
    return (this.#get('tail') - this.#get('head') + ringBytes) % ringBytes;
  }

  get #looped(): boolean {
    return (this.#get('mcr') & MCR.loop) !== 0;
  }

  /** Bytes that `receive` takes at the moment. */
  get room(): number {
    return ringBytes - 1 - this.#waiting;
  }

  /** From the line to the guest; returns how many bytes there was room for. */
  receive(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.room);
    for (const byte of bytes.subarray(0, taken)) this.#queue(byte);
    this.#update();
    return taken;
  }

  #queue(byte: number): void {
    const tail = this.#get('tail');
    this.#w[word.ring + tail] = byte;
    this.#set('tail', (tail + 1) % ringBytes);
  }

  #dequeue(): number {
    if (this.#waiting === 0) return 0;
    const head = this.#get('head');
    this.#set('head', (head + 1) % ringBytes);
    return this.#w[word.ring + head] ?? 0;
  }

  /** What the interrupt is about: the most urgent of what is enabled and true. */
  #cause(): number {
    const ier = this.#get('ier');
    if ((ier & IER.line) !== 0 && this.#get('overrun') !== 0) return IIR.line;
    if ((ier & IER.received) !== 0 && this.#waiting > 0) return IIR.received;
    if ((ier & IER.empty) !== 0 && this.#get('emptyPending') !== 0) return IIR.empty;
    if ((ier & IER.modem) !== 0 && this.#get('deltas') !== 0) return IIR.modem;
    return IIR.none;
  }

  /** OUT2 is the gate of the interrupt in a PC; a loop cuts it off. */
  #update(): void {
    const gate = (this.#get('mcr') & (MCR.out2 | MCR.loop)) === MCR.out2;
    const level = Number(gate && this.#cause() !== IIR.none);
    if (level === this.#get('level')) return;
    this.#set('level', level);
    this.#irq.set(level === 1);
  }

  /** Modem lines: a cable that is always ready, or in a loop our own outputs. */
  #lines(): number {
    if (!this.#looped) return MSR.dcd | MSR.dsr | MSR.cts;
    const mcr = this.#get('mcr');
    return (
      ((mcr & MCR.rts) === 0 ? 0 : MSR.cts) |
      ((mcr & MCR.dtr) === 0 ? 0 : MSR.dsr) |
      ((mcr & MCR.out1) === 0 ? 0 : MSR.ri) |
      ((mcr & MCR.out2) === 0 ? 0 : MSR.dcd)
    );
  }

  read(offset: number): number {
    const value = this.#read(offset);
    this.#update();
    return value;
  }

  #read(offset: number): number {
    const latch = (this.#get('lcr') & LCR.dlab) !== 0;
    switch (offset) {
      case register.data:
        return latch ? this.#get('divisorLow') : this.#dequeue();
      case register.ier:
        return latch ? this.#get('divisorHigh') : this.#get('ier');
      case register.iirFcr: {
        const cause = this.#cause();
        if (cause === IIR.empty) this.#set('emptyPending', 0);
        return cause | ((this.#get('fcr') & FCR.enable) === 0 ? 0 : IIR.fifos);
      }
      case register.lcr:
        return this.#get('lcr');
      case register.mcr:
        return this.#get('mcr');
      case register.lsr: {
        const overrun = this.#get('overrun') === 0 ? 0 : LSR.overrun;
        this.#set('overrun', 0);
        return LSR.empty | overrun | (this.#waiting > 0 ? LSR.data : 0);
      }
      case register.msr: {
        const deltas = this.#get('deltas');
        this.#set('deltas', 0);
        return this.#lines() | deltas;
      }
      case register.scratch:
        return this.#get('scratch');
      default:
        return 0xff;
    }
  }

  write(offset: number, value: number): void {
    this.#write(offset, value & 0xff);
    this.#update();
  }

  #write(offset: number, value: number): void {
    const latch = (this.#get('lcr') & LCR.dlab) !== 0;
    switch (offset) {
      case register.data:
        if (latch) this.#set('divisorLow', value);
        else this.#transmit(value);
        return;
      case register.ier:
        if (latch) this.#set('divisorHigh', value);
        else {
          // switching it on asks: is it empty? it is
          if ((this.#get('ier') & IER.empty) === 0 && (value & IER.empty) !== 0) this.#set('emptyPending', 1);
          this.#set('ier', value & IER.all);
        }
        return;
      case register.iirFcr:
        // switching the FIFOs on or off clears them too
        if ((value & FCR.clearReceiver) !== 0 || ((this.#get('fcr') ^ value) & FCR.enable) !== 0)
          this.#set('head', this.#get('tail'));
        this.#set('fcr', (value & FCR.enable) === 0 ? 0 : value & FCR.kept);
        return;
      case register.lcr:
        this.#set('lcr', value);
        return;
      case register.mcr:
        this.#setModem(value & MCR.all);
        return;
      case register.scratch:
        this.#set('scratch', value);
        return;
      default: // the two status registers are read-only
    }
  }

  #transmit(byte: number): void {
    if (!this.#looped) this.#send(byte);
    else if (this.room === 0) this.#set('overrun', 1);
    else this.#queue(byte);
    this.#set('emptyPending', 1);
  }

  /** Bits 0 to 3 of the modem status say which line changed; of the ring indicator, only its end counts. */
  #setModem(value: number): void {
    const before = this.#lines();
    this.#set('mcr', value);
    const changed = before ^ this.#lines();
    const counted = changed & ~((before & MSR.ri) === 0 ? MSR.ri : 0);
    this.#set('deltas', this.#get('deltas') | (counted >> 4));
  }
}
