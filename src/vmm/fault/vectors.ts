/** Exceptions by vector. Intel SDM volume 3A, table 6-1. */
const names: Readonly<Record<number, string>> = {
  0: '#DE divide error',
  1: '#DB debug',
  2: 'NMI',
  3: '#BP breakpoint',
  4: '#OF overflow',
  5: '#BR bound range exceeded',
  6: '#UD invalid opcode',
  7: '#NM no floating-point unit',
  8: '#DF double fault',
  10: '#TS invalid task state segment',
  11: '#NP segment not present',
  12: '#SS stack fault',
  13: '#GP general protection',
  14: '#PF page fault',
  16: '#MF floating-point error',
  17: '#AC alignment check',
  18: '#MC machine check',
  19: '#XM SIMD floating-point error',
};

export const pageFault = 14;

/** `#PF page fault`; one without a name keeps its number. */
export const exceptionName = (vector: number): string => names[vector] ?? `vector ${vector}`;
