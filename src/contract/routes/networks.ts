import { listOf, page } from '../schemas/common.ts';
import { network, newNetwork } from '../schemas/networks.ts';
import type { Route } from '../route.ts';

/** Networks. `{network}` is an id or a name. */
export const networkRoutes = {
  listNetworks: {
    method: 'GET',
    path: '/v1/networks',
    doc: 'List networks',
    access: 'user',
    query: page,
    reply: listOf(network),
  },
  createNetwork: {
    method: 'POST',
    path: '/v1/networks',
    doc: 'Make a network',
    access: 'admin',
    body: newNetwork,
    reply: network,
    status: 201,
  },
  getNetwork: {
    method: 'GET',
    path: '/v1/networks/{network}',
    doc: 'One network',
    access: 'user',
    reply: network,
  },
  deleteNetwork: {
    method: 'DELETE',
    path: '/v1/networks/{network}',
    doc: 'Delete a network that has no machines',
    access: 'admin',
    status: 204,
  },
} as const satisfies Record<string, Route>;
