/** What the process of a machine has said: that its guest has begun, and in the end how it went. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { CarrelError } from '#base/errors.ts';
import type { Inspection } from '#contract/schemas/machines.ts';
import { isLocked } from '#host/flock.ts';
import { keptPaths } from '#isolate/kept.ts';
import { type RunReport, runReport } from '#vmm/apart/order.ts';
import type { EndReport, MachineSpec } from '../../driver.ts';
import { microPaths } from './spec.ts';

/** Has the guest begun? */
export function hasBegun(directory: string): boolean {
  const { report } = microPaths(directory);
  return existsSync(report) && statSync(report).size > 0;
}

/** The report; undefined before the end, and of a process that was killed. The file is a stranger's: see order.ts. */
export function readReport(directory: string): RunReport | undefined {
  const { report } = microPaths(directory);
  if (!existsSync(report)) return undefined;
  const last = readFileSync(report, 'utf8').trimEnd().split('\n').at(-1) ?? '';
  let said: unknown;
  try {
    said = JSON.parse(last);
  } catch {
    return undefined; // killed while it wrote
  }
  const parsed = runReport.safeParse(said);
  return parsed.success ? parsed.data : undefined;
}

/** An end in order of the process is none of the guest if that did not halt. Stopped from outside is what was wanted. */
export function withFault(report: EndReport, directory: string): EndReport {
  if (report.end?.kind !== 'exited') return report;
  const said = readReport(directory);
  if (!said) return { ...report, fault: 'its process ended without a report; its console says more' };
  if ('refused' in said) return { ...report, fault: said.refused };
  const bad = said.vcpus.findIndex(({ end }) => end.kind !== 'halted' && end.kind !== 'stopped');
  if (bad < 0) return report;
  const sentence = said.vcpus[bad]?.end.sentence ?? '';
  return { ...report, fault: said.vcpus.length === 1 ? sentence : `vCPU ${bad}: ${sentence}` };
}

/** The report for people; `wrong_state` while there is none. */
export function inspectionOf({ directory, name }: Pick<MachineSpec, 'directory' | 'name'>): Inspection {
  const said = readReport(directory);
  if (said && 'refused' in said)
    throw new CarrelError('wrong_state', `the guest of machine ${name} could not be run: ${said.refused}`);
  if (said) {
    const vcpus = said.vcpus.map(({ output, end, exits, registers, ms }) => ({
      output,
      end,
      exits,
      registers,
      ms,
    }));
    return { vcpus, facts: said.facts };
  }
  const runs = isLocked(keptPaths(directory).lock);
  if (runs)
    throw new CarrelError('wrong_state', `the guest of machine ${name} is still running`, {
      hint: 'what it was is known when it has ended, or is stopped',
    });
  throw hasBegun(directory)
    ? new CarrelError(
        'wrong_state',
        `the last run of machine ${name} was ended before it could say how it went`,
        {
          hint: 'start it again; machine stop lets it report',
        },
      )
    : new CarrelError('wrong_state', `machine ${name} has no run to look at`, { hint: 'start it first' });
}
