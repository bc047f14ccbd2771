/** The OS-Cloud routes with everything they need: their account, their memory of lists, their listener. */
import type { Actor } from '#base/actor.ts';
import type { Endpoint } from '#fabric/listeners.ts';
import { refuseOpenTo } from '#fabric/local-only.ts';
import { serviceAccount } from '#machines/quota.ts';
import { eventsChannel } from '#store/events.ts';
import type { Db } from '#store/schema.ts';
import { insertUser, selectOptionalUserByName } from '#store/users.ts';
import type { Authenticator } from '../auth/authenticate.ts';
import type { Listen } from '../http/listen.ts';
import { listenOsCloud, type OsCloud } from './listen.ts';
import { openVms, type VmsOptions } from './vms.ts';

export interface OpenOptions extends VmsOptions {
  readonly listen: Listen;
  /** Where it listens, for people. */
  readonly endpoint: Endpoint;
  /** Without tokens: everybody on this host is the service account. */
  readonly open: boolean;
  readonly authenticator: Pick<Authenticator, 'identify'>;
}

export async function openOsCloud({
  listen,
  endpoint,
  open,
  authenticator,
  ...options
}: OpenOptions): Promise<OsCloud> {
  if (open) refuseOpenTo(endpoint);
  const { store, log } = options;
  const vms = openVms(options);
  // a deletion, for instance, that was asked for elsewhere
  const unlisten = await store.listen(eventsChannel, () => vms.forget());
  const access = open ? { everybody: await ensureAccount(store.db) } : { authenticator };
  const server = await listenOsCloud({ listen, vms, access, log });
  return {
    host: server.host,
    port: server.port,
    async close(how) {
      unlisten();
      await server.close(how);
    },
  };
}

/** The account that everybody is, made at the first start; it has no token. */
async function ensureAccount(db: Db): Promise<Actor> {
  const user =
    (await selectOptionalUserByName(db, serviceAccount)) ?? (await insertUser(db, { name: serviceAccount }));
  return { id: user.id, name: user.name, admin: false };
}
