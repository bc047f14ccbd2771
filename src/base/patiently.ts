/**
 * For tests of limits: a limit that a quiet machine keeps within a second may need a minute on one that is loaded.
 * The attempt is made with the first limit, and with the next one if it fails; how it fails with the last one is the
 * result.
 *
 * @example await patiently([1500, 60_000], async (limitMs) => assert.equal((await run({ limitMs })).said, 'begun'));
 */
export async function patiently<T>(
  limitsMs: readonly [number, ...number[]],
  attempt: (limitMs: number) => Promise<T>,
): Promise<T> {
  const [limitMs, next, ...rest] = limitsMs;
  try {
    return await attempt(limitMs);
  } catch (error) {
    if (next === undefined) throw error;
    return await patiently([next, ...rest], attempt);
  }
}
