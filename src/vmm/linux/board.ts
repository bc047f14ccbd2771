/**
 * The devices of a PC that Linux cannot do without: serial port, clock, keyboard controller, reset. All their
 * registers are words of shared memory under one lock, so that the thread of each vCPU serves its own accesses:
 * handing one to another thread and back takes some 50 microseconds, the lock less than one.
 */
import { syscallError, trySyscall } from '#host/syscalls.ts';
import { setIrqLine } from '#kvm/interrupts.ts';
import { constants } from 'node:os';
import { pollOnce, type Source } from '#host/poll.ts';
import { PortBus } from '../devices/bus.ts';
import { bytewise, type ByteDevice } from '../devices/bytewise.ts';
import type { PortSize } from '../devices/device.ts';
import { SharedLock } from '../devices/lock.ts';
import { debugExit, keyboardController, type PortEnd, resetControl } from '../devices/reset.ts';
import { Rtc, rtcPorts, rtcWords } from '../devices/rtc.ts';
import { Serial, serialPorts, serialWords } from '../devices/serial.ts';
import { irqs } from './layout.ts';

const lockWords = 4;
/** Whoever waits for a reader looks up as often: is somebody to stop? */
const lookUpMs = 100;
const ports = { keyboard: 0x60, rtc: 0x70, debugExit: 0xf4, serial: 0x3f8, reset: 0xcf9 } as const;

/** What each thread needs to have the same board. */
export interface BoardHandle {
  readonly words: SharedArrayBuffer;
  /** Descriptor of the VM: interrupts go there. */
  readonly vm: number;
  /** Descriptor of a pipe, not blocking: what the guest sends on its serial line goes there. */
  readonly output: number;
}

/** The shared part of a board, all registers as after a reset. */
export function makeBoardWords(): SharedArrayBuffer {
  return new SharedArrayBuffer(4 * (lockWords + serialWords + rtcWords));
}

export class Board {
  readonly #ports = new PortBus();
  readonly #lock: SharedLock;
  readonly #serial: Serial;
  readonly #output: number;
  readonly #room: Source;
  /** Sent by the access that is being served; goes out after it, for the pipe may be full. */
  #sent: number[] = [];
  #ended: PortEnd | undefined;

  constructor({ words, vm, output }: BoardHandle) {
    this.#output = output;
    this.#room = { fd: output, direction: 'out', wanted: () => true, serve: () => undefined };
    const part = (first: number, count: number): Int32Array => new Int32Array(words, first * 4, count);
    this.#lock = new SharedLock(part(0, lockWords));
    this.#serial = new Serial({
      words: part(lockWords, serialWords),
      irq: { set: (level) => setIrqLine(vm, irqs.serial, level) },
      send: (byte) => this.#sent.push(byte),
    });
    const end = (how: PortEnd): void => {
      this.#ended = how;
    };
    const add = (port: number, length: number, device: ByteDevice): void =>
      this.#ports.add(port, length, bytewise(device));
    add(ports.serial, serialPorts, this.#serial);
    add(ports.rtc, rtcPorts, new Rtc({ words: part(lockWords + serialWords, rtcWords) }));
    add(ports.keyboard, 5, keyboardController(end));
    add(ports.reset, 1, resetControl(end));
    add(ports.debugExit, 1, debugExit(end));
  }

  /** Ports that the guest tried and that lead nowhere. */
  get unmapped(): PortBus['unmapped'] {
    return this.#ports.unmapped;
  }

  read(port: number, size: PortSize): number {
    return this.#lock.hold(() => this.#ports.read(port, size));
  }

  /** Serves a write; how the machine ends if that was what it asked for. `wanted`: somebody wants us to stop. */
  write(port: number, size: PortSize, value: number, wanted: () => boolean): PortEnd | undefined {
    this.#lock.hold(() => this.#ports.write(port, size, value));
    if (this.#sent.length > 0) this.#flush(wanted);
    return this.#ended;
  }

  /**
   * Waits while nobody reads the pipe: a guest prints as fast as somebody looks. Not in write(2): a kick that comes
   * just before it would be lost.
   */
  #flush(wanted: () => boolean): void {
    const bytes = Uint8Array.from(this.#sent);
    this.#sent = [];
    while (!wanted()) {
      const result = trySyscall('write', this.#output, bytes, bytes.length); // so few are written at once, or not
      if (result >= 0) return;
      if (result === -constants.errno.EAGAIN) pollOnce([this.#room], lookUpMs);
      else if (result !== -constants.errno.EINTR) throw syscallError('write', result, 'the serial line');
    }
  }

  /** Types on the serial line; returns how many bytes there was room for. */
  receive(bytes: Uint8Array): number {
    return this.#lock.hold(() => this.#serial.receive(bytes));
  }
}
