/**
 * What every benchmark shares: contestants run interleaved (so that a busy moment hits all of them), medians
 * instead of means, the machine described, a table for people and `--json` for programs.
 */
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { formatSize } from '#base/units.ts';

export interface Contestant {
  readonly name: string;
  /** One round; what it returns is ignored, its time is taken. */
  readonly run: () => Promise<unknown>;
}

export interface Timing {
  readonly name: string;
  readonly rounds: number;
  /** Milliseconds. */
  readonly min: number;
  readonly p50: number;
  readonly p95: number;
  readonly max: number;
  /** p50 over the p50 of the first contestant. */
  readonly ratio: number;
}

/** The value at `share` (0 to 1) of the sorted samples. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

/** Sums samples up; `base` is the p50 that ratios refer to. */
export function summarise(name: string, samples: readonly number[], base?: number): Timing {
  const p50 = quantile(samples, 0.5);
  return {
    name,
    rounds: samples.length,
    min: Math.min(...samples),
    p50,
    p95: quantile(samples, 0.95),
    max: Math.max(...samples),
    ratio: p50 / (base ?? p50),
  };
}

/** Runs the contestants in turn, `rounds` times after `warmUp` rounds that do not count. */
export async function interleave(
  contestants: readonly Contestant[],
  { rounds = 50, warmUp = 3 }: { rounds?: number; warmUp?: number } = {},
): Promise<Timing[]> {
  const samples = new Map(contestants.map(({ name }) => [name, [] as number[]]));
  for (let round = -warmUp; round < rounds; round += 1)
    for (const { name, run } of contestants) {
      const start = performance.now();
      await run();
      if (round >= 0) samples.get(name)?.push(performance.now() - start);
    }
  const first = contestants[0];
  const base = first ? quantile(samples.get(first.name) ?? [], 0.5) : undefined;
  return contestants.map(({ name }) => summarise(name, samples.get(name) ?? [], base));
}

export interface MachineDescription {
  readonly cpu: string;
  readonly cores: number;
  readonly memory: string;
  readonly kernel: string;
  readonly system: string;
  readonly node: string;
  readonly load: string;
}

/** The machine a figure was measured on: a figure without it is worth nothing. */
export function describeMachine(): MachineDescription {
  const system = /PRETTY_NAME="(.*)"/.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown';
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memory: formatSize(totalmem()),
    kernel: release(),
    system,
    node: process.version,
    load: loadavg()
      .map((value) => value.toFixed(2))
      .join(' '),
  };
}

/** Prints the result: JSON with `--json` on the command line, else the machine and a table. */
export function report(title: string, rows: readonly Record<string, string | number>[]): void {
  const machine = describeMachine();
  if (process.argv.includes('--json')) {
    process.stdout.write(`${JSON.stringify({ title, machine, rows }, null, 2)}\n`);
    return;
  }
  process.stdout.write(`${title}\n${Object.values(machine).join(' · ')}\n\n`);
  const text = rows.map((row) =>
    Object.fromEntries(
      Object.entries(row).map(([key, value]) => [
        key,
        typeof value === 'number' ? String(Number(value.toFixed(2))) : value,
      ]),
    ),
  );
  const columns = Object.keys(text[0] ?? {});
  const widths = columns.map((column) =>
    Math.max(column.length, ...text.map((row) => (row[column] ?? '').length)),
  );
  const line = (cells: readonly string[]): string =>
    `${cells.map((cell, index) => cell.padEnd(widths[index] ?? 0)).join('  ')}\n`;
  process.stdout.write(line(columns));
  for (const row of text) process.stdout.write(line(columns.map((column) => row[column] ?? '')));
}

/** Timings as rows for `report`. */
export function rowsOf(timings: readonly Timing[]): Record<string, string | number>[] {
  return timings.map(({ name, rounds, min, p50, p95, ratio }) => ({
    name,
    rounds,
    'min ms': min,
    'p50 ms': p50,
    'p95 ms': p95,
    ratio,
  }));
}
