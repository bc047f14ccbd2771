/**
 * The micro-VMM: a machine with one guest on each vCPU, made, run and looked at.
 *
 * @example
 * using machine = createMachine({ mode: 'long', image: flatImage(code) });
 * const [result] = await machine.run({ limitMs: 5000 });
 * console.log(result?.output, result?.exits.total);
 */
import { CarrelError } from '#base/errors.ts';
import { type Kvm, openKvm } from '#kvm/kvm.ts';
import { GuestMemory } from '#kvm/memory.ts';
import { zeroRegisters } from '#kvm/registers.ts';
import type { Vcpu } from '#kvm/vcpu.ts';
import type { Vm } from '#kvm/vm.ts';
import { type DiskOptions, openDisk } from './disk.ts';
import { findPortMap, portMaps } from './hypercalls/maps.ts';
import type { GuestImage } from './image/image.ts';
import { placeImage, placeTables } from './image/place.ts';
import { type Layout, windowBytes } from './layout.ts';
import type { Mode, ModeName } from './modes/mode.ts';
import { modes } from './modes/table.ts';
import { mostVcpus } from './threads.ts';
import { defaultShareLimits, type ShareLimits } from './share.ts';
import { usualTrace } from './trace.ts';
import type { Goal } from './debug/choose.ts';
import { type DirtyMethod, dirtyMethod, DirtyTracker } from './inspect/dirty.ts';
import { prepareVmcall } from './vmcall/host.ts';
import { replaceVmcalls, vmcallSites } from './vmcall/sites.ts';
import type { VcpuOrder } from './vcpu-run.ts';
import { type Ended, type ThreadOptions, VcpuThread } from './vcpu-worker.ts';

export interface MachineOptions {
  readonly mode: ModeName;
  readonly image: GuestImage;
  /** 1 unless given. More than one only in long mode: see modes/require.ts. */
  readonly vcpus?: number;
  /**
   * Who answers vmcall: the KVM of this `host` (the usual), or a `model` of ours, simulated. `as it is`: the host, with
   * nothing asked of it beforehand.
   */
  readonly vmcall?: 'host' | 'model' | 'as it is' | undefined;
  /** Know which pages the guests write: see `Machine.dirty`. */
  readonly watchDirty?: DirtyMethod | 'as this host can' | undefined;
  /** Stays the caller's; without it /dev/kvm is opened. */
  readonly kvm?: Kvm;
}

/** What holds for a vCPU from its first instruction to its end. */
export interface GuestOptions {
  /** Name of a port map. */
  readonly ports?: string;
  /** Directory whose files the guest may open. */
  readonly share?: string;
  /** What each vCPU may do to them; `defaultShareLimits` unless given. */
  readonly shareLimits?: ShareLimits;
  /** An image behind virtio-blk: for machines with one vCPU, which is the one that serves it. */
  readonly disk?: DiskOptions;
  /** Bytes each vCPU may print. */
  readonly outputLimit?: number;
  /** Write down each exit; a number: how many of the last ones are kept. */
  readonly trace?: boolean | number;
}

export interface RunOptions extends GuestOptions, Goal {
  /** For each vCPU, from its first instruction on. */
  readonly limitMs?: number;
  readonly onLine?: (vcpu: number, line: string) => void;
  readonly signal?: AbortSignal;
}

export interface VcpuResult extends Ended {
  readonly vcpu: number;
  /** All it printed. */
  readonly output: string;
}

export interface MachineVcpu {
  readonly vcpu: Vcpu;
  readonly layout: Layout;
}

export class Machine {
  readonly mode: Mode;
  readonly image: GuestImage;
  readonly memory: GuestMemory;
  readonly vcpus: readonly MachineVcpu[];
  readonly runBytes: number;
  /** Which pages were written; undefined unless it was asked for. */
  readonly dirty: DirtyTracker | undefined;
  /** Addresses of the vmcalls that the model answers; undefined without it. */
  readonly vmcallSites: readonly number[] | undefined;
  readonly #vm: Vm;
  #running = 0;

  /** Made by `createMachine`. */
  constructor(vm: Vm, { mode, image, vcpus = 1, watchDirty, vmcall = 'host' }: MachineOptions) {
    this.#vm = vm;
    this.mode = modes[mode];
    this.image = image;
    this.vmcallSites = vmcall === 'model' ? vmcallSites(image) : undefined;
    if (vmcall === 'host') prepareVmcall(vm);
    this.runBytes = vm.runBytes;
    const tables = placeTables(image, this.mode);
    this.memory = GuestMemory.allocate(vcpus * windowBytes);
    const dirtyBy = watchDirty && dirtyMethod(watchDirty);
    vm.addMemory(this.memory, 0n, { logDirty: dirtyBy === 'dirty log' });
    this.vcpus = Array.from({ length: vcpus }, (_, index) =>
      this.#prepare({ memory: this.memory, base: index * windowBytes, tables }),
    );
    this.dirty = dirtyBy && new DirtyTracker(vm, this.memory, dirtyBy);
  }

  /** A vCPU about to execute the first instruction of the image. */
  #prepare(layout: Layout): MachineVcpu {
    const vcpu = this.#vm.createVcpu();
    placeImage(this.image, layout);
    replaceVmcalls(this.vmcallSites ?? [], layout);
    const special = vcpu.special();
    this.mode.setUp(special, layout);
    vcpu.setSpecial(special);
    vcpu.setRegisters({
      ...zeroRegisters,
      rip: BigInt(this.image.entry),
      rsp: BigInt(this.mode.stack),
      rflags: 2n, // bit 1 is always set
    });
    return { vcpu, layout };
  }

  vcpuAt(index: number): MachineVcpu {
    const chosen = this.vcpus[index];
    if (!chosen) throw new CarrelError('not_found', `there is no vCPU ${index}`);
    return chosen;
  }

  /** What a thread must know to run a vCPU. */
  orderOf(
    index: number,
    {
      ports = 'carrel',
      share,
      shareLimits = defaultShareLimits,
      outputLimit = 2 ** 20,
      trace = false,
    }: GuestOptions,
  ): VcpuOrder {
    if (!findPortMap(ports))
      throw new CarrelError('not_found', `there is no port map ${ports}`, {
        hint: `there are: ${portMaps.map(({ name }) => name).join(', ')}`,
      });
    const { vcpu, layout } = this.vcpuAt(index);
    return {
      vcpu: vcpu.handle,
      memory: this.memory.handle,
      base: layout.base,
      tables: layout.tables,
      imageEnd: this.image.end,
      mode: this.mode.name,
      ports,
      vmcallSites: this.vmcallSites,
      share,
      shareLimits,
      disk: undefined,
      outputLimit,
      trace: trace === true ? usualTrace : Number(trace),
      live: false,
    };
  }

  /** Somebody runs a vCPU: until it is disposed of, the machine cannot be closed. */
  hold(): Disposable {
    this.#running += 1;
    return {
      [Symbol.dispose]: () => {
        this.#running -= 1;
      },
    };
  }

  /** A thread for one vCPU, which goes as far as it is told. The machine is not closed before the thread is. */
  open(
    index: number,
    options: GuestOptions,
    { onLine, onExits }: Pick<ThreadOptions, 'onLine' | 'onExits'>,
  ): VcpuThread {
    if (options.disk && this.vcpus.length > 1)
      throw new CarrelError('invalid_request', `a disk is for one vCPU, not for ${this.vcpus.length}`);
    const plain = { ...this.orderOf(index, options), live: onExits !== undefined };
    const disk = options.disk && openDisk(options.disk);
    const order = { ...plain, disk: disk && { fd: disk.fd, readOnly: disk.readOnly } };
    const hold = this.hold();
    return new VcpuThread({
      order,
      page: this.vcpuAt(index).vcpu.page,
      onLine,
      ...(onExits && { onExits }),
      onClose() {
        disk?.close();
        hold[Symbol.dispose]();
      },
    });
  }

  /** Runs all vCPUs, each in its own thread, until every one has ended. */
  async run(options: RunOptions = {}): Promise<readonly VcpuResult[]> {
    const abort = new AbortController();
    const signal = options.signal ? AbortSignal.any([abort.signal, options.signal]) : abort.signal;
    const runs = this.vcpus.map((_, index) => this.#runVcpu(index, { ...options, signal }));
    // one that broke (never a guest's fault) must not leave the others running
    for (const run of runs) run.catch(() => abort.abort());
    const settled = await Promise.allSettled(runs);
    return settled.map((result) => {
      if (result.status === 'rejected') throw result.reason;
      return result.value;
    });
  }

  async #runVcpu(index: number, options: RunOptions & { readonly signal: AbortSignal }): Promise<VcpuResult> {
    const { limitMs = 5000, steps, breakpoints = [], closely = false, onLine, signal } = options;
    const lines: string[] = [];
    await using thread = this.open(index, options, {
      onLine(line) {
        lines.push(line);
        onLine?.(index, line);
      },
    });
    const ended = await thread.go({ goal: { steps, breakpoints, closely }, limitMs, signal });
    return { vcpu: index, output: lines.join(''), ...ended };
  }

  close(): void {
    if (this.#running > 0) throw new CarrelError('wrong_state', 'the machine is running: stop it first');
    this.#vm.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function createVm(): Vm {
  using kvm = openKvm();
  return kvm.createVm();
}

/** A machine that is ready to run. */
export function createMachine(options: MachineOptions): Machine {
  const { vcpus = 1 } = options;
  if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > mostVcpus)
    throw new CarrelError('invalid_request', `a machine has 1 to ${mostVcpus} vCPUs, not ${vcpus}`);
  const vm = options.kvm ? options.kvm.createVm() : createVm();
  try {
    return new Machine(vm, options);
  } catch (error) {
    vm.close();
    throw error;
  }
}
