/** The records behind the OS-Cloud routes as its lab shows them: the tables vm, disk and network. */
import type { Actor } from '#base/actor.ts';
import type { OsCloudTables } from '#contract/schemas/oscloud.ts';
import type { Db } from '#store/schema.ts';
import { stateOf } from './state.ts';

/** The machines of one's own; all of them for administrators. */
export async function selectOsCloudTables(db: Db, actor: Actor): Promise<OsCloudTables> {
  let query = db
    .selectFrom('oscloud_machines as o')
    .innerJoin('machines as m', 'm.id', 'o.machine_id')
    .innerJoin('users as u', 'u.id', 'o.owner_id')
    .select([
      'o.number',
      'o.display_name',
      'o.os',
      'o.network',
      'u.name as owner',
      'm.id as machine',
      'm.state',
      'm.activity',
      'm.limits',
      'm.address',
      'm.mac',
      'm.keeper',
    ])
    .where('m.deleted_at', 'is', null);
  if (!actor.admin) query = query.where('o.owner_id', '=', actor.id);
  const rows = await query.orderBy('o.owner_id').orderBy('o.number').execute();
  const networks = await db.selectFrom('networks').selectAll().orderBy('created_at').orderBy('id').execute();
  const networkIds = new Map(networks.map(({ name }, index) => [name, index + 1]));
  return {
    vm: rows.map((row) => ({
      id: row.number,
      name: row.display_name,
      disk_id: row.number, // a machine has one disk, and it has no other name
      mem_size: row.limits.memory ?? 0,
      network_id: networkIds.get(row.network) ?? 0,
      ip: row.address,
      mac: row.mac,
      qemu_pid: row.keeper?.pid ?? null,
      state: stateOf(row),
      machine: row.machine,
      owner: row.owner,
    })),
    disk: rows.map((row) => ({ id: row.number, size: row.limits.disk ?? 0, template_name: row.os })),
    network: networks.map(({ name, bridge, cidr }, index) => {
      const [ip = '', prefix = '32'] = cidr.split('/');
      return { id: index + 1, name, bridge, ip, mask: maskOf(Number(prefix)) };
    }),
  };
}

/** 16 -> `255.255.0.0` */
function maskOf(prefix: number): string {
  const bits = prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0;
  return [24, 16, 8, 0].map((shift) => (bits >>> shift) & 255).join('.');
}
