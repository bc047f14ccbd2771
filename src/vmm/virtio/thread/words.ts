/** The words that a thread of devices shares with the threads of the vCPUs. */
import { mailboxWords } from './mailbox.ts';

/** Interrupt words have a cache line each. */
const lineWords = 16;

interface Layout {
  /** Not zero: it is over. */
  readonly stop: Int32Array;
  /** InterruptStatus of a device. */
  interrupts(device: number): Int32Array;
  mailbox(vcpu: number): Int32Array;
}

export function makeWords(devices: number, vcpus: number): SharedArrayBuffer {
  return new SharedArrayBuffer(4 * (lineWords * (1 + devices) + mailboxWords * vcpus));
}

export function layOut(words: SharedArrayBuffer, devices: number): Layout {
  const part = (first: number, count: number): Int32Array => new Int32Array(words, 4 * first, count);
  return {
    stop: part(0, 1),
    interrupts: (device) => part(lineWords * (1 + device), 1),
    mailbox: (vcpu) => part(lineWords * (1 + devices) + mailboxWords * vcpu, mailboxWords),
  };
}
