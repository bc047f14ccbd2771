/** Points in time as people write them. */
import { CarrelError } from '#base/errors.ts';
import { parseDuration } from '#base/units.ts';

/**
 * `2026-12-01T23:59Z`, `2026-12-01 23:59` (this machine's time zone), `2026-12-01` (its last minute),
 * `+7d` (from now), `never` -> RFC 3339 in UTC, or null.
 */
export function parseInstant(text: string, now = new Date()): string | null {
  if (text === 'never') return null;
  if (text.startsWith('+'))
    return new Date(now.getTime() + parseDuration(text.slice(1), 'time')).toISOString();
  const match = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?))?(Z|[+-]\d{2}:\d{2})?$/.exec(text);
  const instant = match ? new Date(`${match[1]}T${match[2] ?? '23:59'}${match[3] ?? ''}`) : undefined;
  if (!instant || Number.isNaN(instant.getTime()))
    throw new CarrelError('invalid_request', `${text} is not a time`, {
      hint: 'write it like 2026-12-01T23:59Z, 2026-12-01, +7d, or never',
    });
  // JavaScript takes February 30 for March 2: the day must come back as it went in
  const day = new Date(`${match?.[1]}T00:00Z`);
  if (day.toISOString().slice(0, 10) !== match?.[1])
    throw new CarrelError('invalid_request', `there is no day ${match?.[1]}`);
  return instant.toISOString();
}
