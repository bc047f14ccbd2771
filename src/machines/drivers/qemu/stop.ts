/** The end of a virtual machine: by its own agent, by the power button, by the plug. */
import { sleep, within } from '#base/deadline.ts';
import { isCarrelError } from '#base/errors.ts';
import type { Kept } from '#isolate/kept.ts';
import { keeperEnd } from '../kept.ts';
import type { Agents } from './agents.ts';
import { nothing, withQmp } from './qmp.ts';

/** QEMU that is told to quit writes its tables to the disk and is gone in some ms. */
const quitMs = 3000;
/** The part of the grace time after which the power button is pressed as well. */
const agentShare = 0.5;

export interface StopParts {
  readonly kept: Kept;
  readonly directory: string;
  readonly agents: Agents;
  /** Does the image have an agent? */
  readonly hasAgent: boolean;
}

/** Ends the machine; resolves when its keeper is gone too, so that it may be started again at once. */
export async function stopVm(parts: StopParts, { graceMs }: { graceMs: number }): Promise<void> {
  const { kept, directory } = parts;
  const over = kept.ended().then(() => true as const);
  if (graceMs > 0) await orderly(parts, graceMs, over);
  if (!(await hasEnded(over, 0))) {
    await tell(directory, 'quit', quitMs);
    if (!(await hasEnded(over, quitMs))) await kept.kill();
  }
  await keeperEnd(directory);
}

async function orderly(
  { directory, agents, hasAgent }: StopParts,
  graceMs: number,
  over: Promise<true>,
): Promise<void> {
  const end = performance.now() + graceMs;
  const left = (): number => Math.max(1, end - performance.now());
  const half = graceMs * agentShare;
  await tell(directory, 'cont', half); // one that is paused hears nothing
  const asking = (): Promise<void> => agents.use(directory, (agent) => agent.powerOff(), { limitMs: half });
  const asked = hasAgent && (await succeeds(within(half, "the machine's agent to power off", asking())));
  if (asked && (await hasEnded(over, left() - half))) return;
  // needs somebody in the guest who listens to the button
  await tell(directory, 'system_powerdown', left());
  await hasEnded(over, left());
}

async function hasEnded(over: Promise<true>, ms: number): Promise<boolean> {
  return Promise.race([over, sleep(Math.max(0, ms)).then(() => false)]);
}

/** A command of QMP without an answer worth waiting for longer than that. */
async function tell(directory: string, command: string, limitMs: number): Promise<boolean> {
  return succeeds(withQmp(directory, (qmp) => qmp.execute(command, {}, nothing, { limitMs }), { limitMs }));
}

/** A step on the way to the plug that fails is followed by the next one. */
async function succeeds(work: Promise<unknown>): Promise<boolean> {
  try {
    await work;
    return true;
  } catch (error) {
    if (!isCarrelError(error)) throw error;
    return false;
  }
}
