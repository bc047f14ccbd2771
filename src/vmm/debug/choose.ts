/** From a wish to what carries it out on this host. */
import { debugAids } from '#kvm/debug-probe.ts';
import { debugRegisterCount } from '#kvm/debug.ts';
import type { Guest } from '../guest.ts';
import { modes } from '../modes/table.ts';
import type { Breakpoint, BreakMethod } from './breakpoint.ts';
import type { Control } from './control.ts';
import { HardwareBreakpoints } from './hardware.ts';
import { Stepper } from './steps.ts';

/** How far a guest shall run, if not to its end. */
export interface Goal {
  /** So many single steps. */
  readonly steps?: number | undefined;
  readonly breakpoints?: readonly Breakpoint[];
  /** Find breakpoints by single steps, which tell more, even where there are debug registers. */
  readonly closely?: boolean;
}

/** What notices these breakpoints here. */
export function methodFor(breakpoints: readonly Breakpoint[]): BreakMethod {
  const aids = debugAids();
  const can = ({ kind }: Breakpoint): boolean => (kind === 'execute' ? aids.execute : aids.data);
  return breakpoints.length <= debugRegisterCount && breakpoints.every(can)
    ? 'debug registers'
    : 'single step';
}

/** On the vCPU's own thread. */
export function controlFor(
  { vcpu, mode, layout }: Guest,
  { steps, breakpoints = [], closely }: Goal,
): Control {
  if (steps === undefined && !closely && methodFor(breakpoints) === 'debug registers')
    return new HardwareBreakpoints(vcpu, { layout, breakpoints });
  return new Stepper(vcpu, { mode: modes[mode], layout, limit: steps, breakpoints });
}
