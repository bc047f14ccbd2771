/**
 * Where things lie in the guest-physical memory of a Linux machine. The first MiB is that of a PC; between 3 and
 * 4 GiB there is a hole, as in one, for the registers of devices; RAM that does not fit below goes on above.
 */
const MiB = 2 ** 20;
const GiB = 2 ** 30;

export const place = {
  /** Global descriptor table of the first instruction: five entries. */
  gdt: 0x500,
  /** struct boot_params, the "zero page". */
  bootParams: 0x7000,
  /** Page tables of the first instruction: PML4, PDPT, and a page directory for each of four GiB. */
  pageTables: 0x9000,
  /** The stack of the first instruction grows down from here. */
  stack: 0x8ff0,
  commandLine: 0x2_0000,
  /** End of conventional memory: what lies behind is the BIOS's in a PC. */
  conventionalEnd: 0x9_fc00,
  /** Where a kernel looks for the MP table: 0xF0000 to 0xFFFFF (MP specification 1.4, chapter 4). */
  mpTable: 0xf_0000,
  /** High memory: kernels begin here, or above. */
  high: MiB,
  /** Registers of virtio devices. */
  virtio: 0xd000_0000,
  ioApic: 0xfec0_0000,
  localApic: 0xfee0_0000,
} as const;

/**
 * Room for the command line, with its NUL: as much as the reference VMM has (4096). A kernel may take less: those for
 * x86 take 2048 (COMMAND_LINE_SIZE), say so in their header, and drop what is beyond without a word.
 */
export const commandLineCapacity = 4096;

/** Addresses without RAM, for devices: end of RAM below, begin of RAM above. */
export const hole = { from: 3 * GiB, to: 4 * GiB } as const;

/** Global system interrupts of the IO-APIC: 24 pins (82093AA data sheet). */
export const ioApicPins = 24;

/** ISA interrupts: of the serial port, and those that are left, for virtio devices. */
export const irqs = { serial: 4, virtio: [5, 6, 7, 9, 10, 11, 12, 14, 15] } as const;
