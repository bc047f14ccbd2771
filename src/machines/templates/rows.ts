/** Templates as people see them, and what their rows say about themselves. */
import { CarrelError } from '#base/errors.ts';
import type { Limits } from '#contract/schemas/machines.ts';
import type { Template as View } from '#contract/schemas/templates.ts';
import { selectTemplates, targetOf, type Template as Row } from '#store/templates.ts';
import type { Db } from '#store/schema.ts';
import type { Cloud } from '../cloud.ts';
import { limitsOf } from '../rows.ts';
import type { TemplateDriver } from './driver.ts';

/** Machines of kind qemu are the only ones that boot. */
export const templateDriverName = 'qemu';

/** `driver_unsupported` where there are no virtual machines. */
export function templateDriver({ drivers }: Pick<Cloud, 'drivers'>): TemplateDriver {
  const driver = drivers[templateDriverName]?.templates;
  if (driver) return driver;
  throw new CarrelError('driver_unsupported', 'this cloud has no machines that start from templates');
}

export const limitsOfTemplate = (row: Pick<Row, 'limits'>): Limits => limitsOf(row);

/** At most one unfinished job per template. */
export const parkKey = (id: string): string => `template ${id}`;
export const fillKey = (id: string): string => `template spares ${id}`;

/** All, the newest first. */
export async function viewTemplates(db: Db): Promise<View[]> {
  const waiting = await db
    .selectFrom('vm_spares')
    .select(({ fn }) => ['template_id', fn.countAll<number>().as('count')])
    .where('purpose', '=', 'spare')
    .where('state', '=', 'ready')
    .groupBy('template_id')
    .execute();
  const counts = new Map(waiting.map(({ template_id: id, count }) => [id, count]));
  return (await selectTemplates(db)).map((row) => viewOf(row, counts.get(row.id) ?? 0));
}

function viewOf(row: Row, waiting: number): View {
  const { cpus, memoryBytes } = limitsOfTemplate(row);
  return {
    id: row.id,
    image: row.image,
    imageHash: row.image_hash,
    limits: { cpus, memoryBytes },
    state: row.state,
    failure: row.failure && {
      code: row.failure.code,
      message: row.failure.message,
      hint: row.failure.hint ?? null,
    },
    kept: row.kept,
    bytes: row.bytes,
    ready: targetOf(row),
    waiting,
    lastUsedAt: row.last_used_at?.toISOString() ?? null,
    createdAt: row.created_at.toISOString(),
  };
}
