/**
 * A virtual machine is looked at over the fabric's network, by what its serial line says, and, once it is off, by the
 * files on its disk. Nothing of it is asked: its kernel, its agent and its programs are its root's, who is the student.
 */
import { CarrelError, isCarrelError } from '#base/errors.ts';
import { identify } from '#host/processes.ts';
import type { ConsoleSpec, MachineFileSpec, ObserveSpec } from '../../format/kinds.ts';
import { type Outcome, failed, noVerdict, passed } from '../../judge/outcome.ts';
import { quote } from '../../judge/text.ts';
import type { FreshVm } from '../../machine.ts';
import { untilAtRest, watchRest } from '#machines/rest.ts';
import { observeListen, pingFrom } from './network.ts';
import { judgeFile, maxFileBytes, type Observer } from './observer.ts';

export function createVmObserver(machine: FreshVm): Observer {
  const settled = watchRest(machine);
  return {
    settled,
    async look(_, spec, { reveal, signal }) {
      if (machine.power() === 'lost')
        throw new CarrelError('machine_lost', 'the virtual machine was ended while it was looked at');
      if (!spec.file) return await look(machine, spec, reveal);
      // there is one look at its disk, so it comes when there is nothing more to wait for
      await untilAtRest(settled, signal);
      return await lookAtDisk(machine, spec.file, reveal);
    },
  };
}

async function look(machine: FreshVm, spec: ObserveSpec, reveal: boolean): Promise<Outcome> {
  if (spec.console) return lookAtConsole(await machine.console(), spec.console, reveal);
  const { address } = machine;
  if (address === null) return noVerdict('the machine has no address in the fabric');
  if (machine.power() === 'off') return failed('the machine has switched itself off');
  if (spec.ping) return await ping(address);
  if (spec.listen) return await observeListen(address, spec.listen, reveal);
  return noVerdict('this cannot be observed of a virtual machine');
}

/** From this process's own network, which is the fabric's. */
async function ping(address: string): Promise<Outcome> {
  const self = identify(process.pid);
  if (!self) throw new CarrelError('internal', 'this process cannot find itself in /proc');
  return await pingFrom(self, address);
}

function lookAtConsole(said: Uint8Array, { contains }: ConsoleSpec, reveal: boolean): Outcome {
  if (Buffer.from(said).includes(Buffer.from(contains))) return passed('its console says so');
  return failed(
    reveal ? `its console does not say ${quote(contains)}` : 'its console does not say what it should',
  );
}

async function lookAtDisk(machine: FreshVm, file: MachineFileSpec, reveal: boolean): Promise<Outcome> {
  await machine.powerOff();
  try {
    return await judgeFile(file, reveal, () => machine.readDisk(file.path, { maxBytes: maxFileBytes }));
  } catch (error) {
    // both are what the machine has made of its disk
    if (isCarrelError(error, 'wrong_state'))
      return failed('the machine could not be shut down in order, so its disk says nothing');
    if (isCarrelError(error, 'validation_failed')) return failed(error.message);
    throw error;
  }
}
