/**
 * For tests that try inputs at random: how many. A few in every run of the tests; CARREL_FUZZ_RUNS multiplies all of
 * them, for a night.
 */
export function fuzzRuns(usual: number): number {
  const times = Number(process.env['CARREL_FUZZ_RUNS'] ?? 1);
  if (!Number.isFinite(times) || times <= 0) throw new RangeError('CARREL_FUZZ_RUNS is a number above 0');
  return Math.ceil(usual * times);
}
