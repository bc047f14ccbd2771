/**
 * The machines of this cloud that have processes, as this process holds them. The keeper owns the machine;
 * what is here is only a connection to it, and can be lost and made again at any time.
 */
import { CarrelError } from '#base/errors.ts';
import type { Driver, EndReport, MachineSpec, RunningMachine } from './driver.ts';

export interface Living {
  /** Held, if it is known to run. */
  get(id: string): RunningMachine | undefined;
  /** Held, or adopted now; `wrong_state` when it does not run. */
  require(driver: Driver, spec: MachineSpec): Promise<RunningMachine>;
  /** Takes a machine in; its end is announced once. */
  hold(id: string, machine: RunningMachine): void;
  /** Gives it away to somebody who is about to end it: its end is not announced. */
  take(id: string): RunningMachine | undefined;
  ids(): string[];
  close(): void;
}

export function openLiving(onEnded: (id: string, report: EndReport) => void): Living {
  const held = new Map<string, RunningMachine>();
  const adopting = new Map<string, Promise<RunningMachine | undefined>>();

  const hold = (id: string, machine: RunningMachine): void => {
    const before = held.get(id);
    if (before === machine) return;
    before?.release();
    held.set(id, machine);
    const gone = (report: EndReport): void => {
      if (held.get(id) !== machine) return;
      held.delete(id);
      machine.release();
      onEnded(id, report);
    };
    // released by us: `held` does not have it any more, and nobody is told
    machine.ended.then(gone, () => gone({ end: null, outOfMemory: false }));
  };

  return {
    get: (id) => held.get(id),
    async require(driver, spec) {
      const known = held.get(spec.id);
      if (known) return known;
      const pending = adopting.get(spec.id) ?? driver.adopt(spec).finally(() => adopting.delete(spec.id));
      adopting.set(spec.id, pending);
      const machine = await pending;
      if (!machine)
        throw new CarrelError('wrong_state', `machine ${spec.name} is not running`, {
          hint: 'start it first',
        });
      hold(spec.id, machine);
      return machine;
    },
    hold,
    take(id) {
      const machine = held.get(id);
      held.delete(id);
      return machine;
    },
    ids: () => [...held.keys()],
    close() {
      for (const machine of held.values()) machine.release();
      held.clear();
    },
  };
}
