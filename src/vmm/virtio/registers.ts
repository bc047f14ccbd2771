/** The registers of virtio over MMIO, version 2 (4.2.2, table 4.1): 32 bits each, little-endian. */

export const registers = {
  MagicValue: 0x000,
  Version: 0x004,
  DeviceID: 0x008,
  VendorID: 0x00c,
  DeviceFeatures: 0x010,
  DeviceFeaturesSel: 0x014,
  DriverFeatures: 0x020,
  DriverFeaturesSel: 0x024,
  QueueSel: 0x030,
  QueueNumMax: 0x034,
  QueueNum: 0x038,
  QueueReady: 0x044,
  QueueNotify: 0x050,
  InterruptStatus: 0x060,
  InterruptACK: 0x064,
  Status: 0x070,
  QueueDescLow: 0x080,
  QueueDescHigh: 0x084,
  QueueDriverLow: 0x090,
  QueueDriverHigh: 0x094,
  QueueDeviceLow: 0x0a0,
  QueueDeviceHigh: 0x0a4,
  SHMSel: 0x0ac,
  SHMLenLow: 0x0b0,
  SHMLenHigh: 0x0b4,
  SHMBaseLow: 0x0b8,
  SHMBaseHigh: 0x0bc,
  QueueReset: 0x0c0,
  ConfigGeneration: 0x0fc,
} as const;

/** Where the device's own configuration space begins. */
export const configSpace = 0x100;

/** The range that a device takes: what `virtio_mmio.device=512@ADDRESS:IRQ` tells a kernel. */
export const rangeBytes = 0x200;

/** "virt" */
export const magic = 0x7472_6976;
export const version = 2;

/** Bits of InterruptStatus. */
export const USED_BUFFER = 1;
export const CONFIG_CHANGE = 2;
