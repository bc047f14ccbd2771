/**
 * Points are multiples of 0.01. A total is shared out by weight with the largest-remainder method: each
 * check gets its share rounded down to 0.01, and the hundredths left over go one each to the checks that lost
 * most by rounding, earlier checks first. So the checks always add up to the total, exactly.
 */

const cents = (points: number): number => Math.round(points * 100);

/** Adds points without the drift of binary fractions. */
export function sumPoints(points: readonly number[]): number {
  return points.reduce((sum, each) => sum + cents(each), 0) / 100;
}

/** Shares `total` by weight; weights are not negative, and at least one is positive. */
export function sharePoints(total: number, weights: readonly number[]): number[] {
  const whole = cents(total);
  const sum = weights.reduce((left, right) => left + right, 0);
  const exact = weights.map((weight) => (whole * weight) / sum);
  const shares = exact.map(Math.floor);
  let left = whole - shares.reduce((a, b) => a + b, 0);
  const byLoss = exact
    .map((share, index) => ({ index, loss: share - Math.floor(share) }))
    .sort((a, b) => b.loss - a.loss || a.index - b.index);
  for (const { index } of byLoss) {
    if (left <= 0) break;
    shares[index] = (shares[index] ?? 0) + 1;
    left -= 1;
  }
  return shares.map((share) => share / 100);
}

/** A fraction of a check's points: rounded down to 0.01, so that a part never becomes the whole. */
export function partOf(points: number, fraction: number): number {
  if (fraction >= 1) return points;
  return Math.max(0, Math.floor(cents(points) * fraction + 1e-9)) / 100;
}
