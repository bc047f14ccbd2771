/** Model-specific registers as firmware leaves them to a kernel. Intel SDM volume 4. */

const IA32_MISC_ENABLE = 0x1a0;
const IA32_MTRR_DEF_TYPE = 0x2ff;

/** Fast string instructions are on. */
const FAST_STRINGS = 1n;
/** Memory type ranges are in use, and the type of all that no range names is write-back. */
const MTRR_WRITE_BACK = 0x806n;

export const bootMsrs: Readonly<Record<number, bigint>> = {
  [IA32_MISC_ENABLE]: FAST_STRINGS,
  [IA32_MTRR_DEF_TYPE]: MTRR_WRITE_BACK,
};
