/**
 * The control plane's own records in the shape that the OS-Cloud lab shows to students (`select * from vm`):
 * for looking, not for changing.
 */
import { z } from 'zod';
import { bytes, id, name } from './common.ts';

export const osCloudTables = z.strictObject({
  vm: z.array(
    z.strictObject({
      id: z.int(),
      name: z.string(),
      disk_id: z.int(),
      mem_size: bytes,
      network_id: z.int(),
      ip: z.string().nullable(),
      mac: z.string().nullable(),
      qemu_pid: z.int().nullable(),
      state: z.string(),
      /** Where the rest of Carrel knows it. */
      machine: id,
      owner: name,
    }),
  ),
  disk: z.array(z.strictObject({ id: z.int(), size: bytes, template_name: z.string() })),
  network: z.array(
    z.strictObject({
      id: z.int(),
      name: z.string(),
      bridge: z.string(),
      ip: z.string(),
      mask: z.string(),
    }),
  ),
});
export type OsCloudTables = z.infer<typeof osCloudTables>;
