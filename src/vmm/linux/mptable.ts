/**
 * The MP table: how a kernel without ACPI learns of processors, the IO-APIC, and which interrupt arrives at which
 * pin. Source: Intel MultiProcessor Specification 1.4, chapter 4.
 */
import { CarrelError } from '#base/errors.ts';
import { ioApicPins, place } from './layout.ts';

/** APIC ids have eight bits; 0xff is everybody, and one is the IO-APIC's. */
export const mostProcessors = 254;

const floatingBytes = 16;
const headerBytes = 44;
const specRevision = 4;
const apicVersion = 0x14;
const ioApicVersion = 0x11;

const entryType = { processor: 0, bus: 1, ioApic: 2, interrupt: 3, localInterrupt: 4 } as const;
const interruptType = { vectored: 0, nmi: 1, external: 3 } as const;
/** Processor flags: it may be used; it is the one that boots. */
const CPU_ENABLED = 1;
const CPU_BOOT = 2;
/** Interrupt flags: active high, by level; 0 is as its bus has it, for ISA active high, by edge. */
const LEVEL_HIGH = 0x000d;
/** A local interrupt goes to all processors. */
const EVERYBODY = 0xff;

function entry(bytes: number, fill: (view: DataView, array: Uint8Array) => void): Uint8Array {
  const array = new Uint8Array(bytes);
  fill(new DataView(array.buffer), array);
  return array;
}

function processor(id: number): Uint8Array {
  return entry(20, (view) => {
    view.setUint8(0, entryType.processor);
    view.setUint8(1, id);
    view.setUint8(2, apicVersion);
    view.setUint8(3, CPU_ENABLED | (id === 0 ? CPU_BOOT : 0));
    view.setUint32(4, 0x600, true); // family 6; CPUID tells the rest
    view.setUint32(8, 0x201, true); // it has an FPU and a local APIC
  });
}

function interrupt(
  type: number,
  kind: number,
  flags: number,
  source: number,
  to: readonly [number, number],
): Uint8Array {
  return entry(8, (view) => {
    view.setUint8(0, type);
    view.setUint8(1, kind);
    view.setUint16(2, flags, true);
    view.setUint8(4, 0); // the one bus
    view.setUint8(5, source);
    view.setUint8(6, to[0]);
    view.setUint8(7, to[1]);
  });
}

/** The last byte makes the sum of all 0. */
function setChecksum(bytes: Uint8Array, at: number): void {
  bytes[at] = 0;
  bytes[at] = -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff;
}

/**
 * Floating pointer and table, one behind the other, for `place.mpTable`. `levels` are the pins whose devices keep
 * their line up until they are served; the others interrupt by an edge.
 */
export function mpTable({ vcpus, levels }: { vcpus: number; levels: readonly number[] }): Uint8Array {
  if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > mostProcessors)
    throw new CarrelError(
      'invalid_request',
      `an MP table has 1 to ${mostProcessors} processors, not ${vcpus}`,
    );
  const ioApicId = vcpus;
  const pins = Array.from({ length: ioApicPins }, (_, pin) => pin);
  const entries = [
    ...Array.from({ length: vcpus }, (_, id) => processor(id)),
    entry(8, (view, bytes) => {
      view.setUint8(0, entryType.bus);
      bytes.set(Buffer.from('ISA   '), 2);
    }),
    entry(8, (view) => {
      view.setUint8(0, entryType.ioApic);
      view.setUint8(1, ioApicId);
      view.setUint8(2, ioApicVersion);
      view.setUint8(3, 1); // it may be used
      view.setUint32(4, place.ioApic, true);
    }),
    // KVM wires interrupt n to pin n, also that of the timer, which a PC has at pin 2
    ...pins.map((pin) =>
      interrupt(entryType.interrupt, interruptType.vectored, levels.includes(pin) ? LEVEL_HIGH : 0, pin, [
        ioApicId,
        pin,
      ]),
    ),
    interrupt(entryType.localInterrupt, interruptType.external, 0, 0, [EVERYBODY, 0]),
    interrupt(entryType.localInterrupt, interruptType.nmi, 0, 0, [EVERYBODY, 1]),
  ];
  const length = entries.reduce((sum, { length: bytes }) => sum + bytes, headerBytes);
  const bytes = new Uint8Array(floatingBytes + length);
  const view = new DataView(bytes.buffer);

  bytes.set(Buffer.from('_MP_'));
  view.setUint32(4, place.mpTable + floatingBytes, true);
  view.setUint8(8, 1); // length of this pointer, in 16 bytes
  view.setUint8(9, specRevision);
  setChecksum(bytes.subarray(0, floatingBytes), 10);

  const table = bytes.subarray(floatingBytes);
  table.set(Buffer.from('PCMP'));
  view.setUint16(floatingBytes + 4, length, true);
  view.setUint8(floatingBytes + 6, specRevision);
  table.set(Buffer.from('CARREL  VMM         '), 8); // eight bytes for the maker, twelve for the product
  view.setUint16(floatingBytes + 34, entries.length, true);
  view.setUint32(floatingBytes + 36, place.localApic, true);
  let at = headerBytes;
  for (const each of entries) {
    table.set(each, at);
    at += each.length;
  }
  setChecksum(table, 7);
  return bytes;
}
