/**
 * The setup header of the Linux boot protocol: offsets in a bzImage, which are those in struct boot_params as
 * well. Source: Documentation/arch/x86/boot.rst.
 */
export const header = {
  /** First byte of the header. */
  begin: 0x1f1,
  setup_sects: 0x1f1,
  syssize: 0x1f4,
  boot_flag: 0x1fe,
  /** Its second byte says where the header ends: it is a short jump over it. */
  jump: 0x200,
  magic: 0x202,
  version: 0x206,
  kernel_version: 0x20e,
  type_of_loader: 0x210,
  loadflags: 0x211,
  code32_start: 0x214,
  ramdisk_image: 0x218,
  ramdisk_size: 0x21c,
  cmd_line_ptr: 0x228,
  initrd_addr_max: 0x22c,
  kernel_alignment: 0x230,
  relocatable_kernel: 0x234,
  xloadflags: 0x236,
  cmdline_size: 0x238,
  pref_address: 0x258,
  init_size: 0x260,
} as const;

/** In boot_params the header may not reach beyond this: another field begins there (struct boot_params). */
export const headerLimit = 0x290;

export const BOOT_FLAG = 0xaa55;
/** "HdrS" */
export const HEADER_MAGIC = 0x5372_6448;
/** loadflags: the kernel is loaded at 1 MiB, not at 64 KiB. */
export const LOADED_HIGH = 1;
/** xloadflags: there is a 64-bit entry point, 0x200 bytes behind the first. */
export const XLF_KERNEL_64 = 1;
/** The first protocol with a 64-bit entry point. */
export const version64 = 0x020c;
