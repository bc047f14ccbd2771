/** What happens in a session, in order: for prompts, for the web, for tests. */
import type { Registers } from '#kvm/registers.ts';
import type { Breakpoint } from '../debug/breakpoint.ts';
import type { Step } from '../debug/steps.ts';
import type { End } from '../end.ts';
import type { TracedExits } from '../trace.ts';

/** A breakpoint with the number by which it is taken away. */
export interface NumberedBreakpoint extends Breakpoint {
  readonly number: number;
}

export type SessionEvent =
  | { readonly kind: 'running'; readonly vcpu: number }
  /** What the guest printed: a line, or what there was of one when it stopped. */
  | { readonly kind: 'output'; readonly vcpu: number; readonly text: string }
  | ({ readonly kind: 'exits'; readonly vcpu: number } & TracedExits)
  | { readonly kind: 'steps'; readonly vcpu: number; readonly steps: readonly Step[] }
  /** It stands still: `isOver`, or it can go on. */
  | {
      readonly kind: 'stopped';
      readonly vcpu: number;
      readonly end: End;
      readonly sentence: string;
      readonly isOver: boolean;
      readonly exits: number;
      readonly registers: Registers;
    }
  | { readonly kind: 'breakpoints'; readonly breakpoints: readonly NumberedBreakpoint[] }
  /** Somebody wrote registers or memory by hand. */
  | { readonly kind: 'changed'; readonly vcpu: number; readonly what: string }
  /** A new machine, about to execute its first instruction. */
  | { readonly kind: 'reset' };

export type SessionListener = (event: SessionEvent) => void;

/** Ends after which a guest can go on. */
const pauses: ReadonlySet<End['kind']> = new Set(['steps done', 'breakpoint', 'stopped', 'time limit']);

export const isPause = ({ kind }: End): boolean => pauses.has(kind);
