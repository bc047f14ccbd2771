/**
 * A thread for a machine's devices, from outside. Guests notify it by eventfds (ioeventfd), it interrupts them by
 * others (irqfd), and registers are read and written through doors.
 *
 * @example
 * await using devices = startDevices({ ram: [{ at: 0, handle: memory.handle }], vcpus: 1, devices: [{ kind: 'block', fd, readOnly: false }] });
 * // KVM: devices.placed[0].doorbells[q] for a write of q to QueueNotify, devices.placed[0].irq for its interrupt
 * const [disk] = openDoors(devices.doors, 0); // in the thread of vCPU 0
 */
import { Worker } from 'node:worker_threads';
import { CarrelError } from '#base/errors.ts';
import { createEventfd, ring } from '#host/eventfd.ts';
import type { DoorHandle } from './door.ts';
import type { DeviceSpec, DevicesOrder, PlacedDevice, Remark } from './order.ts';
import { layOut, makeWords } from './words.ts';

const names = { block: 'virtio-blk', net: 'virtio-net', console: 'virtio-console' } as const;
const queues = { block: 1, net: 2, console: 2 } as const;

/** It looks up between two requests. */
const stopMs = 10_000;

export interface DevicesOptions {
  readonly ram: DevicesOrder['ram'];
  readonly devices: readonly DeviceSpec[];
  readonly vcpus: number;
  /** What operators should know. */
  readonly onRemark?: (remark: Remark) => void;
}

export interface Devices extends AsyncDisposable {
  /** In the order in which they were asked for: eventfds for KVM to ring and to listen to. */
  readonly placed: readonly PlacedDevice[];
  /** For the threads of the vCPUs: see `openDoors`. */
  readonly doors: DoorHandle;
  /** Rejects if the thread breaks, which no guest can do; never resolves before `stop`. */
  readonly ended: Promise<void>;
  /** After the vCPUs. */
  stop(): Promise<void>;
}

/** A process cannot exit while a thread of it is inside poll(2): whoever calls process.exit wakes them. */
const running = new Set<() => void>();
process.on('exit', () => {
  for (const halt of running) halt();
});

export function startDevices({ ram, devices, vcpus, onRemark }: DevicesOptions): Devices {
  using undo = new DisposableStack();
  const bell = (): number => undo.use(createEventfd()).fd;
  const placed = devices.map((spec, index): PlacedDevice => {
    const before = devices.slice(0, index).filter(({ kind }) => kind === spec.kind).length;
    return {
      spec,
      name: `${names[spec.kind]} ${before}`,
      doorbells: Array.from({ length: queues[spec.kind] }, bell),
      irq: bell(),
    };
  });
  const wake = bell();
  const words = makeWords(devices.length, vcpus);
  const order: DevicesOrder = { ram, devices: placed, words, vcpus, wake };
  const worker = new Worker(new URL('worker.ts', import.meta.url), {
    workerData: order,
    trackUnmanagedFds: false,
    // options of the process (--eval, --inspect-brk) are not meant for it
    execArgv: [],
  });
  const fds = undo.move();
  const halt = (): void => {
    Atomics.store(layOut(words, devices.length).stop, 0, 1);
    ring(wake);
  };
  running.add(halt);
  const { promise: ended, resolve, reject } = Promise.withResolvers<void>();
  ended.catch(() => undefined); // whoever stops it hears of it
  worker.on('message', (remark: Remark) => onRemark?.(remark));
  worker.once('error', reject);
  let stopping = false;
  worker.once('exit', () => {
    running.delete(halt);
    // a thread that broke leaves its bells: vCPUs that still run ring them, and not what has their numbers next
    if (stopping) fds.dispose();
    resolve();
  });
  const stop = async (): Promise<void> => {
    stopping = true;
    if (running.has(halt)) halt();
    else fds.dispose();
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () =>
        late.reject(new CarrelError('internal', `the thread of the devices did not stop in ${stopMs} ms`)),
      stopMs,
    );
    try {
      await Promise.race([ended, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  };
  return {
    placed,
    doors: { words, wake, devices: placed.map(({ name, doorbells }) => ({ name, doorbells })) },
    ended,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}
