/**
 * QEMU's command line, from facts. Pure: the same for a machine that boots, a template that is to be parked, and a
 * clone of one, which differ in `memory`, `network` and `incoming` only (a clone must have the very devices of its
 * template). qemu(1); the options of -blockdev are those of QMP's blockdev-add (qapi/block-core.json).
 */
import { CarrelError } from '#base/errors.ts';
import { type Accelerator, translationMiB } from './spec.ts';

/** A layer of the disk, qcow2 by statement: nothing is probed, and what its header says of others is not read. */
export interface DiskLayer {
  /** At most 31 characters (BlockDriverState.node_name). */
  readonly node: string;
  /** As QEMU sees it. */
  readonly path: string;
}

export interface QemuFacts {
  /** Shown in process lists only. */
  readonly name: string;
  readonly accelerator: Accelerator;
  /** Of the time-stamp counter, where the guest need not find out by itself. */
  readonly tscKhz: number | null;
  readonly vcpus: number;
  readonly memoryBytes: number;
  /** Memory as a file, shared (a template writes it) or private (a clone maps it copy-on-write); null: anonymous. */
  readonly memory: { readonly path: string; readonly share: boolean } | null;
  /** A kernel to start at once; null: the BIOS starts the disk. */
  readonly boot: { readonly kernel: string; readonly initrd: string; readonly append: string } | null;
  /** From the lowest to the one that is written. */
  readonly disk: readonly DiskLayer[];
  /** Another disk, raw and read-only, behind all other devices; null: none. */
  readonly cloudInit: string | null;
  /** `hub`: a plug without a cable, as a template has it. */
  readonly network: { readonly kind: 'tap'; readonly fd: number } | { readonly kind: 'hub' };
  readonly mac: string;
  /** Listening unix sockets that came along. */
  readonly qmpFd: number;
  readonly agentFd: number;
  /** Waits for `migrate-incoming` instead of starting. */
  readonly incoming: boolean;
}

/** The agent's port inside: /dev/virtio-ports/carrel.agent.0. */
const agentPort = 'carrel.agent.0';

/** No more than a machine needs: what QEMU does not offer cannot be attacked. */
const sandbox = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny';

/** In an option a comma ends the value, and two are one. */
function value(text: string): string {
  if (text.includes('\0') || text.includes('\n'))
    throw new CarrelError('invalid_request', `${JSON.stringify(text)} cannot be an option of QEMU`);
  return text.replaceAll(',', ',,');
}

/** -blockdev as QMP takes it, for `blockdev-add` as well. */
export function layerOptions(layer: DiskLayer, backing: string | null, { writable = false } = {}) {
  return {
    driver: 'qcow2',
    'node-name': layer.node,
    'read-only': !writable,
    discard: 'unmap',
    file: { driver: 'file', filename: layer.path, 'read-only': !writable, discard: 'unmap' },
    backing,
  } as const;
}

function diskArguments(layers: readonly DiskLayer[]): string[] {
  const active = layers.at(-1);
  if (!active) throw new CarrelError('internal', 'a machine has a disk');
  const nodes = layers.flatMap((layer, index) => {
    const backing = layers[index - 1]?.node ?? null;
    return ['-blockdev', JSON.stringify(layerOptions(layer, backing, { writable: layer === active }))];
  });
  return [...nodes, '-device', `virtio-blk-pci,id=disk0,drive=${value(active.node)},bootindex=1`];
}

function cloudInitArguments(path: string): string[] {
  const options = {
    driver: 'raw',
    'node-name': 'cidata',
    'read-only': true,
    file: { driver: 'file', filename: path, 'read-only': true },
  };
  return ['-blockdev', JSON.stringify(options), '-device', 'virtio-blk-pci,id=cidata0,drive=cidata'];
}

function memoryArguments({ memory, memoryBytes }: Pick<QemuFacts, 'memory' | 'memoryBytes'>): string[] {
  const size = `${memoryBytes}B`;
  if (!memory) return ['-m', `size=${size}`];
  const share = memory.share ? 'on' : 'off';
  return [
    '-object',
    `memory-backend-file,id=ram,size=${size},mem-path=${value(memory.path)},share=${share}`,
    '-m',
    `size=${size}`,
  ];
}

/**
 * Emulated, string instructions go byte by byte, so the guest must not take them for the fastest way to clear a page
 * (ERMS): by words a boot is a tenth shorter.
 */
const processors: Readonly<Record<Accelerator, string>> = { kvm: 'max', tcg: 'max,-erms' };

/**
 * What an emulated processor changes for the kernel. It lets no program of the guest speculate, so nothing needs to be
 * done against that. And the timer: of the HPET the frequency is known, where that of the local APIC is measured for a
 * tenth of a second at each boot (calibrate_APIC_clock in arch/x86/kernel/apic/apic.c); but several processors need a
 * timer each, and KVM's APIC is the host kernel's own. And the clock: a kernel that measures the time-stamp counter while
 * its QEMU waits for a processor comes to a fraction of it (pit_hpet_ptimer_calibrate_cpu in arch/x86/kernel/tsc.c prefers
 * the timer that lets itself be interrupted), and its time goes many times too fast for good.
 */
function tuned({
  accelerator,
  tscKhz,
  vcpus,
  boot,
}: Pick<QemuFacts, 'accelerator' | 'tscKhz' | 'vcpus' | 'boot'>) {
  if (accelerator === 'kvm' || !boot) return { hpet: 'off', append: '' };
  const clock = tscKhz === null ? '' : ` tsc_early_khz=${tscKhz}`;
  return vcpus > 1
    ? { hpet: 'off', append: ` mitigations=off${clock}` }
    : { hpet: 'on', append: ` mitigations=off nolapic_timer${clock}` };
}

/** The arguments, without the program's name. */
export function qemuArguments(facts: QemuFacts): string[] {
  const { name, accelerator, vcpus, memory, boot, cloudInit, network, mac, qmpFd, agentFd, incoming } = facts;
  const { hpet, append } = tuned(facts);
  const rows = [
    ['-name', value(name)],
    ['-nodefaults', '-no-user-config', '-display', 'none', '-vga', 'none'],
    ['-sandbox', sandbox],
    ['-machine', `q35,usb=off,vmport=off,hpet=${hpet}${memory ? ',memory-backend=ram' : ''}`],
    ['-accel', accelerator === 'kvm' ? 'kvm' : `tcg,tb-size=${translationMiB}`],
    ['-cpu', processors[accelerator], '-smp', String(vcpus)],
    memoryArguments(facts),
    boot ? ['-kernel', boot.kernel, '-initrd', boot.initrd, '-append', `${boot.append}${append}`] : [],
    diskArguments(facts.disk),
    [
      '-netdev',
      network.kind === 'tap' ? `tap,id=cable0,fd=${network.fd},vhost=off` : 'hubport,id=cable0,hubid=0',
    ],
    // no option ROM: nobody boots from the network
    ['-device', `virtio-net-pci,id=net0,netdev=cable0,mac=${value(mac)},romfile=`],
    ['-object', 'rng-builtin,id=entropy0', '-device', 'virtio-rng-pci,rng=entropy0'],
    ['-chardev', 'stdio,id=console0,signal=off', '-serial', 'chardev:console0'],
    ['-device', 'virtio-serial-pci,id=ports0'],
    ['-chardev', `socket,id=agent0,fd=${agentFd},server=on,wait=off`],
    ['-device', `virtserialport,bus=ports0.0,nr=1,chardev=agent0,name=${agentPort}`],
    ['-chardev', `socket,id=qmp0,fd=${qmpFd},server=on,wait=off`, '-mon', 'chardev=qmp0,mode=control'],
    cloudInit === null ? [] : cloudInitArguments(cloudInit),
    incoming ? ['-incoming', 'defer'] : [],
  ];
  return rows.flat();
}
