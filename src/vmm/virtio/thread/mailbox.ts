/**
 * How a vCPU's thread reads and writes registers of a device that lives in another thread: one mailbox for each vCPU,
 * so that nobody needs a lock. It asks, rings, and sleeps until it is answered: some 50 microseconds, which is why
 * what a guest does often (notifications, interrupts) goes another way (door.ts).
 */
import { CarrelError } from '#base/errors.ts';

const field = { state: 0, device: 1, offset: 2, size: 3, isWrite: 4, low: 5, high: 6 } as const;
/** Two cache lines: vCPUs do not disturb each other. */
export const mailboxWords = 32;

const state = { idle: 0, asked: 1, answered: 2 } as const;

/** The device's thread answers between two requests, or it is gone. */
const patienceMs = 60_000;

export interface RegisterAccess {
  readonly device: number;
  readonly offset: number;
  readonly size: number;
  /** What is written; undefined: a read. */
  readonly value: bigint | undefined;
}

export class Mailbox {
  readonly #words: Int32Array;

  /** `mailboxWords` words of shared memory, zero at first. */
  constructor(words: Int32Array) {
    this.#words = words;
  }

  #set(name: keyof typeof field, value: number): void {
    this.#words[field[name]] = value;
  }

  #get(name: keyof typeof field): number {
    return this.#words[field[name]] ?? 0;
  }

  get #value(): bigint {
    return (BigInt(this.#get('high') >>> 0) << 32n) | BigInt(this.#get('low') >>> 0);
  }

  set #value(value: bigint) {
    this.#set('low', Number(BigInt.asIntN(32, value)));
    this.#set('high', Number(BigInt.asIntN(32, value >> 32n)));
  }

  /** The vCPU's side: what was read, 0 for a write. `wake` makes the other side look. */
  ask({ device, offset, size, value }: RegisterAccess, wake: () => void): bigint {
    this.#set('device', device);
    this.#set('offset', offset);
    this.#set('size', size);
    this.#set('isWrite', Number(value !== undefined));
    this.#value = value ?? 0n;
    Atomics.store(this.#words, field.state, state.asked);
    wake();
    if (Atomics.wait(this.#words, field.state, state.asked, patienceMs) === 'timed-out')
      throw new CarrelError('internal', `the thread of the devices did not answer in ${patienceMs} ms`);
    const answer = this.#value;
    Atomics.store(this.#words, field.state, state.idle);
    return answer;
  }

  /** The devices' side: somebody sleeps until this is served. */
  get asked(): boolean {
    return Atomics.load(this.#words, field.state) === state.asked;
  }

  /** The devices' side: serves what was asked, if something was. */
  serve(handle: (access: RegisterAccess) => bigint): void {
    if (!this.asked) return;
    this.#value = handle({
      device: this.#get('device'),
      offset: this.#get('offset'),
      size: this.#get('size'),
      value: this.#get('isWrite') === 0 ? undefined : this.#value,
    });
    Atomics.store(this.#words, field.state, state.answered);
    Atomics.notify(this.#words, field.state);
  }
}
