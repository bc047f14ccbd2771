/** What stops a guest before its end: single steps, breakpoints. vcpu-run.ts asks after each exit. */
import type { RunPage } from '#kvm/runpage.ts';
import type { End } from '../end.ts';
import type { Step } from './steps.ts';

export interface Control {
  /** After an exit was served. An end stops the guest there; it can go on later. */
  after(page: RunPage): End | undefined;
  /** The guest executed hlt: no exit of ours comes for it. */
  halted(): void;
  /** The vCPU runs freely from now on. */
  release(): void;
  readonly steps: readonly Step[] | undefined;
}
