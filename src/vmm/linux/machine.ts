/**
 * A machine that runs Linux: RAM, interrupt controllers, vCPUs with a thread each, the devices of a small PC, and
 * a kernel at its first instruction.
 *
 * @example
 * using machine = createLinuxMachine({ kernel: readKernel(await readFile('vmlinux')), commandLine: 'console=ttyS0' });
 * machine.onOutput((bytes) => process.stdout.write(bytes));
 * console.log((await machine.run({ limitMs: 60_000 })).end);
 */
import { Socket } from 'node:net';
import { CarrelError } from '#base/errors.ts';
import { type Fd, pipe } from '#host/fds.ts';
import { createIrqchip } from '#kvm/interrupts.ts';
import { openKvm } from '#kvm/kvm.ts';
import type { Vcpu } from '#kvm/vcpu.ts';
import type { Vm } from '#kvm/vm.ts';
import { mostVcpus } from '../threads.ts';
import type { DeviceSpec, Remark } from '../virtio/thread/order.ts';
import { startDevices } from '../virtio/thread/thread.ts';
import { Board, type BoardHandle, makeBoardWords } from './board.ts';
import { setCpuid } from './cpuid.ts';
import { emulationParameters } from './emulated.ts';
import type { LinuxEnd } from './end.ts';
import { entryRegisters, setEntrySpecial } from './entry-state.ts';
import type { LinuxKernel } from './kernel.ts';
import { loadLinux } from './load.ts';
import { bootMsrs } from './msrs.ts';
import { LinuxRam } from './ram.ts';
import {
  type ConsoleKind,
  defaultCommandLine,
  type Keyboard,
  serialKeyboard,
  virtioKeyboard,
} from './terminal.ts';
import { type LinuxVcpuResult, runVcpuThread } from './vcpu-worker.ts';
import { connectDevices, deviceParameters } from './wiring.ts';

export const defaultMemory = 256 * 2 ** 20;
/** How often typed text is offered again that the guest had no room for. */
const typeAgainMs = 20;

export interface LinuxMachineOptions {
  readonly kernel: LinuxKernel;
  readonly initrd?: Uint8Array | undefined;
  /** `defaultCommandLine` of its console unless given. */
  readonly commandLine?: string | undefined;
  /** Where its terminal is (serial). A command line of one's own has to say the same: console=hvc0 for virtio. */
  readonly console?: ConsoleKind | undefined;
  readonly vcpus?: number | undefined;
  /** Bytes of RAM. */
  readonly memory?: number | undefined;
  /** This host's KVM emulates (probeKvm): the kernel is told what not to use. */
  readonly emulated?: boolean;
  /** In the order in which the kernel finds them. Their descriptors stay the caller's, open until the end of `run`. */
  readonly devices?: readonly DeviceSpec[];
}

export interface LinuxRunOptions {
  readonly limitMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** What devices say: of a guest's driver that did something wrong, of a disk that fails. */
  readonly onRemark?: (remark: Remark) => void;
}

export interface LinuxResult {
  /** Of the vCPU that ended first: the machine's. */
  readonly end: LinuxEnd;
  readonly vcpus: readonly LinuxVcpuResult[];
  readonly ms: number;
}

export class LinuxMachine {
  readonly ram: LinuxRam;
  /** All of it, with what the devices and an emulating host need. */
  readonly commandLine: string;
  readonly #vm: Vm;
  readonly #vcpus: readonly Vcpu[];
  readonly #board: BoardHandle;
  readonly #pipe: readonly Fd[];
  readonly #keyboard: Keyboard;
  readonly #output: Socket;
  readonly #devices: readonly DeviceSpec[];
  readonly #typed: Uint8Array[] = [];
  #typing: NodeJS.Timeout | undefined;
  #running = false;

  /** Made by `createLinuxMachine`. */
  constructor(vm: Vm, options: LinuxMachineOptions, deadlineTimer: boolean) {
    const { kernel, initrd, vcpus = 1, memory = defaultMemory, devices = [] } = options;
    const { console = 'serial', emulated = false } = options;
    const { commandLine: wanted = defaultCommandLine(console) } = options;
    // the console behind what was asked for, which has the same names and interrupts with it and without
    const kinds = console === 'virtio' ? [...devices, { kind: 'console' } as const] : devices;
    const commandLine = deviceParameters(kinds, {
      commandLine: emulated ? `${wanted} ${emulationParameters}` : wanted,
      hasInitrd: initrd !== undefined,
    });
    this.commandLine = commandLine;
    this.#vm = vm;
    this.ram = LinuxRam.allocate(memory);
    const { entry } = loadLinux(this.ram, { kernel, initrd, commandLine, vcpus, levels: [] });
    for (const { at, memory: piece } of this.ram.pieces) vm.addMemory(piece, BigInt(at));
    createIrqchip(vm.fd);
    this.#vcpus = Array.from({ length: vcpus }, (_, index) => {
      const vcpu = vm.createVcpu();
      vcpu.setCpuid(setCpuid(vm.cpuid, { index, vcpus, deadlineTimer, hypercalls: !emulated }));
      vcpu.setMsrs(bootMsrs);
      return vcpu;
    });
    const [first] = this.#vcpus;
    if (first) {
      // the others wait for the first one's word (INIT, SIPI): KVM has them so from the start
      const special = first.special();
      setEntrySpecial(special);
      first.setSpecial(special);
      first.setRegisters(entryRegisters(entry));
    }
    const [read, write] = pipe({ nonBlocking: true });
    this.#pipe = [write];
    this.#output = new Socket({ fd: read.release(), readable: true, writable: false });
    this.#board = { words: makeBoardWords(), vm: vm.fd, output: write.fd };
    this.#keyboard = console === 'virtio' ? virtioKeyboard(write.fd) : serialKeyboard(new Board(this.#board));
    this.#devices = [...devices, ...this.#keyboard.devices];
  }

  /** What the guest sends on its console, and on its serial line. A reader that does not keep up slows the guest down. */
  get output(): NodeJS.ReadableStream {
    return this.#output;
  }

  /** Types on the console; what the guest has no room for waits here. */
  type(bytes: Uint8Array): void {
    this.#typed.push(bytes);
    if (this.#typing === undefined) this.#typeOn();
  }

  #typeOn(): void {
    this.#typing = undefined;
    for (let next = this.#typed.shift(); next !== undefined; next = this.#typed.shift()) {
      const taken = this.#keyboard.type(next);
      if (taken === next.length) continue;
      this.#typed.unshift(next.subarray(taken));
      this.#typing = setTimeout(() => this.#typeOn(), typeAgainMs);
      return;
    }
  }

  /** Runs all vCPUs, each in its own thread, until one of them ends the machine. Once. */
  async run({ limitMs, signal: outer, onRemark }: LinuxRunOptions = {}): Promise<LinuxResult> {
    if (this.#running) throw new CarrelError('wrong_state', 'the machine has been run already');
    this.#running = true;
    const abort = new AbortController();
    const began = performance.now();
    const signal = outer ? AbortSignal.any([abort.signal, outer]) : abort.signal;
    const devices = startDevices({
      ram: this.ram.pieces.map(({ at, memory }) => ({ at, handle: memory.handle })),
      devices: this.#devices,
      vcpus: this.#vcpus.length,
      ...(onRemark && { onRemark }),
    });
    // without its devices a guest waits for ever; why they broke is said when they are stopped
    devices.ended.catch(() => abort.abort());
    try {
      connectDevices(this.#vm.fd, devices.placed);
      const { doors } = devices;
      const runs = this.#vcpus.map(async (vcpu, index) => {
        try {
          return await runVcpuThread({ vcpu, order: { index, board: this.#board, doors }, limitMs, signal });
        } finally {
          abort.abort(); // one ends: the machine ends
        }
      });
      const settled = await Promise.allSettled(runs);
      const vcpus = settled.map((result) => {
        if (result.status === 'rejected') throw result.reason;
        return result.value;
      });
      const ended = vcpus.map(({ end }) => end).find((end) => end !== 'kicked');
      const why = vcpus.map((vcpu) => vcpu.why).find(({ kind }) => kind === 'time limit');
      return { end: ended ?? why ?? { kind: 'stopped' }, vcpus, ms: performance.now() - began };
    } finally {
      clearTimeout(this.#typing);
      await devices.stop();
      this.#keyboard.close();
      for (const fd of this.#pipe) fd.close(); // whoever reads the output comes to its end
    }
  }

  close(): void {
    clearTimeout(this.#typing);
    this.#keyboard.close();
    for (const fd of this.#pipe) fd.close();
    this.#output.destroy();
    this.#vm.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A machine that is ready to run. */
export function createLinuxMachine(options: LinuxMachineOptions): LinuxMachine {
  const { vcpus = 1 } = options;
  if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > mostVcpus)
    throw new CarrelError('invalid_request', `a machine has 1 to ${mostVcpus} vCPUs, not ${vcpus}`);
  using kvm = openKvm();
  const deadlineTimer = kvm
    .capabilities()
    .some(({ name, value }) => name === 'TSC_DEADLINE_TIMER' && value > 0);
  const vm = kvm.createVm();
  try {
    return new LinuxMachine(vm, options, deadlineTimer);
  } catch (error) {
    vm.close();
    throw error;
  }
}
