/** Sizes in bytes, times in milliseconds and addresses, as people write them. */
import { CarrelError } from './errors.ts';

const sizeUnits: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

/** `512` (bytes), `64K`, `1.5G`, `2GiB`, `2GB` -> bytes. Units are binary: KB and KiB are both 1024. */
export function parseSize(text: string, what = 'size'): number {
  const match = /^(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  const bytes = match
    ? Number(match[1]) * (sizeUnits[(match[2] ?? '').toUpperCase()] ?? Number.NaN)
    : Number.NaN;
  if (!Number.isFinite(bytes) || bytes > Number.MAX_SAFE_INTEGER)
    throw new CarrelError('validation_failed', `Invalid ${what}: ${text}`, {
      hint: 'write a number of bytes, or a number with K, M, G or T, for example 512M',
    });
  return Math.round(bytes);
}

/** 1536 -> `1.5 KiB`. */
export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : Number(value.toFixed(1))} ${units[unit]}`;
}

const timeUnits: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** `250ms`, `3s`, `1.5m`, `2h`, `7d` -> milliseconds. A bare number is seconds. */
export function parseDuration(text: string, what = 'duration'): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?$/.exec(text.trim());
  const ms = match ? Number(match[1]) * (timeUnits[match[2] ?? 's'] ?? Number.NaN) : Number.NaN;
  if (!Number.isFinite(ms) || ms > Number.MAX_SAFE_INTEGER)
    throw new CarrelError('validation_failed', `Invalid ${what}: ${text}`, {
      hint: 'write a number with ms, s, m, h or d, for example 3s',
    });
  return Math.round(ms);
}

/** 1234 -> `1.2 s`; 95 -> `95 ms`; 93_500 -> `1 min 34 s`. */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${ms < 10 ? Number(ms.toFixed(1)) : Math.round(ms)} ms`;
  if (ms < 60_000) return `${Number((ms / 1000).toFixed(1))} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** 4096 -> `0x1000`. */
export const hex = (value: number | bigint): string => `0x${value.toString(16)}`;
