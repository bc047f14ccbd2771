/** The pause after so many failures in a row: the first, then twice as long each time, up to the longest. In ms. Pure. */
export const pauseAfter = (
  failures: number,
  { firstMs, longestMs }: { readonly firstMs: number; readonly longestMs: number },
): number => Math.min(longestMs, firstMs * 2 ** (Math.max(1, failures) - 1));
