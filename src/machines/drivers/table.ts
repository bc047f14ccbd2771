/** The kinds of machines. One line per driver; its parts are in the folder of that name. */
import type { Logger } from '#base/log.ts';
import type { DriverName } from '#contract/schemas/machines.ts';
import type { Fabric } from '#fabric/fabric.ts';
import type { Images } from '#images/store.ts';
import type { Sandboxes } from '#isolate/sandbox.ts';
import type { ForkServer } from '#isolate/server.ts';
import type { Driver } from '../driver.ts';
import { createContainerDriver } from './container/driver.ts';
import { createMicroDriver } from './micro/driver.ts';
import { createQemuDriver } from './qemu/driver.ts';

/** What a driver may need of its surroundings. */
export interface DriverHost {
  readonly server: ForkServer;
  readonly fabric: Fabric;
  readonly images: Images;
  /** The directory that holds one directory per machine. */
  readonly directory: string;
  /** Names this cloud's cgroups. */
  readonly instance: string;
  readonly log: Logger;
  /** For what strangers write and the host has to read: compilers. Without them such work is refused. */
  readonly sandboxes?: (() => Promise<Pick<Sandboxes, 'run'>>) | undefined;
}

/** Those that this build has. */
export type Drivers = Readonly<Partial<Record<DriverName, Driver>> & Record<'container', Driver>>;

export function createDrivers(host: DriverHost): Drivers {
  return {
    container: createContainerDriver(host),
    qemu: createQemuDriver(host),
    micro: createMicroDriver(host),
  };
}
