/** A container as grading holds it. */
import type { RunningMachine } from '#machines/driver.ts';
import type { FreshContainer } from './machine.ts';

/** What there must be of one, whoever has made it. */
export interface ContainerHands extends Pick<RunningMachine, 'process' | 'run' | 'writeFile'> {
  readonly id: string;
  readonly address: string | null;
}

export function freshContainer({ id, address, ...machine }: ContainerHands): FreshContainer {
  return {
    driver: 'container',
    id,
    initPid: machine.process.pid,
    address,
    run: (request, options) => machine.run(request, options),
    writeFile: (path, bytes, { mode }) => machine.writeFile(path, bytes, { mode }),
  };
}
