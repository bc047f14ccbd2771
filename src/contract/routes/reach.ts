import { listOf, page } from '../schemas/common.ts';
import { forward, newForward } from '../schemas/forwards.ts';
import { accepted } from '../schemas/jobs.ts';
import { osCloudTables } from '../schemas/oscloud.ts';
import { newScript, script, scriptDetail } from '../schemas/scripts.ts';
import type { Route } from '../route.ts';

/** Ports that lead into machines, scripts that are run in them, and the records behind the OS-Cloud routes. */
export const reachRoutes = {
  listAllForwards: {
    method: 'GET',
    path: '/v1/forwards',
    doc: 'List the port forwards of the machines that you can see',
    access: 'user',
    query: page,
    reply: listOf(forward),
  },
  listForwards: {
    method: 'GET',
    path: '/v1/machines/{machine}/forwards',
    doc: 'List a machine’s port forwards',
    access: 'machine:use',
    reply: listOf(forward),
  },
  createForward: {
    method: 'POST',
    path: '/v1/machines/{machine}/forwards',
    doc: 'Forward a port of the host to a port of the machine (TCP)',
    access: 'machine:use',
    body: newForward,
    reply: forward,
    status: 201,
  },
  removeForward: {
    method: 'DELETE',
    path: '/v1/machines/{machine}/forwards/{forward}',
    doc: 'End a port forward and its connections',
    access: 'machine:use',
    status: 204,
  },
  listScripts: {
    method: 'GET',
    path: '/v1/machines/{machine}/scripts',
    doc: 'List the scripts that were run in a machine, the latest first',
    access: 'machine:use',
    reply: listOf(script),
  },
  runScript: {
    method: 'POST',
    path: '/v1/machines/{machine}/scripts',
    doc: 'Run lines one after the other inside the machine; status, output and time of each are kept',
    access: 'machine:use',
    body: newScript,
    reply: accepted,
    status: 202,
    idempotent: true,
  },
  getScript: {
    method: 'GET',
    path: '/v1/machines/{machine}/scripts/{script}',
    doc: 'One script with what came of each line',
    access: 'machine:use',
    reply: scriptDetail,
  },
  getOsCloudTables: {
    method: 'GET',
    path: '/v1/oscloud/tables',
    doc: 'The records behind the OS-Cloud routes as the rows of its tables vm, disk and network',
    access: 'user',
    reply: osCloudTables,
  },
} as const satisfies Record<string, Route>;
