/** One vCPU of a Linux machine, on its own thread, from its first instruction to the end of the machine. */
import { exitReason, exitReasons, internalError, internalErrors } from '#kvm/abi/exits.ts';
import { Kick } from '#kvm/kick.ts';
import { runVcpu } from '#kvm/runloop.ts';
import type { RunPage } from '#kvm/runpage.ts';
import { Vcpu, type VcpuHandle } from '#kvm/vcpu.ts';
import { ExitCounters, type ExitCounts } from '../counters.ts';
import type { MmioBus } from '../devices/bus.ts';
import type { PortSize } from '../devices/device.ts';
import { Board, type BoardHandle } from './board.ts';
import type { LinuxEnd } from './end.ts';
import { fillGap } from './gaps.ts';
import { openBus } from './wiring.ts';
import type { DoorHandle } from '../virtio/thread/door.ts';

/** All that a vCPU's thread is told: plain data, descriptors and shared buffers. */
export interface LinuxVcpuOrder {
  readonly index: number;
  readonly vcpu: VcpuHandle;
  readonly kick: SharedArrayBuffer;
  readonly board: BoardHandle;
  readonly doors: DoorHandle;
}

export interface LinuxVcpuReport {
  readonly end: LinuxEnd | 'kicked';
  readonly exits: ExitCounts;
  /** Instructions that KVM did not know and that were carried out here, by name. */
  readonly gaps: Readonly<Record<string, number>>;
}

function isPortSize(size: number): size is PortSize {
  return size === 1 || size === 2 || size === 4;
}

/** Serves an exit of kind IO; several transfers in one exit (`rep outsb`) one after the other. */
function servePorts(board: Board, page: RunPage, kick: Kick): LinuxEnd | undefined {
  const { port, ioSize: size, isOut } = page;
  if (!isPortSize(size)) return undefined; // no processor has others
  for (let index = 0; index < page.ioCount; index += 1) {
    if (!isOut) {
      page.setIoValue(index, board.read(port, size));
      continue;
    }
    const end = board.write(port, size, page.ioValue(index), () => kick.wanted);
    if (end) return end;
  }
  return undefined;
}

function serveMmio(bus: MmioBus, page: RunPage): void {
  const { address, length, isWrite } = page.mmio;
  if (isWrite) bus.write(Number(address), length, page.mmioData);
  else page.mmioData = bus.read(Number(address), length);
}

/** Why KVM stopped for good. */
function stuck(index: number, vcpu: Vcpu): LinuxEnd {
  const { page } = vcpu;
  const { name, doc } = exitReason(page.exitReason);
  const isInternal = page.exitReason === exitReasons.INTERNAL_ERROR.number;
  const bytes = isInternal ? page.failedInstruction : undefined;
  return {
    kind: 'stuck',
    vcpu: index,
    exit: name,
    why: isInternal ? internalError(page.suberror) : doc,
    rip: vcpu.registers().rip,
    instruction: bytes && Buffer.from(bytes).toString('hex'),
  };
}

export function runLinuxVcpu(order: LinuxVcpuOrder): LinuxVcpuReport {
  const vcpu = new Vcpu(order.vcpu);
  const kick = new Kick(order.kick);
  const board = new Board(order.board);
  const bus = openBus(order.doors, order.index);
  const counters = new ExitCounters();
  const gaps: Record<string, number> = {};
  let end: LinuxEnd | undefined;

  const serve = (page: RunPage): boolean => {
    counters.count(page);
    switch (page.exitReason) {
      case exitReasons.IO.number:
        end = servePorts(board, page, kick);
        break;
      case exitReasons.MMIO.number:
        serveMmio(bus, page);
        break;
      case exitReasons.INTR.number:
        break;
      case exitReasons.SHUTDOWN.number:
        end = { kind: 'reset', by: 'triple fault' };
        break;
      case exitReasons.INTERNAL_ERROR.number: {
        const filled = page.suberror === internalErrors.EMULATION.number ? fillGap(vcpu) : undefined;
        if (filled === undefined) end = stuck(order.index, vcpu);
        else gaps[filled] = (gaps[filled] ?? 0) + 1;
        break;
      }
      default:
        end = stuck(order.index, vcpu);
    }
    return end === undefined;
  };
  runVcpu(vcpu, kick, serve);
  return { end: end ?? 'kicked', exits: counters.snapshot(), gaps };
}
