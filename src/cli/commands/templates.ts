/** Virtual machines that booted ahead of time. */
import { formatSize } from '#base/units.ts';
import { newTemplate, type Template } from '#contract/schemas/templates.ts';
import type { Client } from '#contract/client.ts';
import { CarrelError } from '#base/errors.ts';
import type { Action } from '../spec.ts';
import { waitForJob } from '../waiting.ts';

const sizeOf = ({ limits: { cpus, memoryBytes } }: Template): string =>
  `${formatSize(memoryBytes)}, ${cpus} ${cpus === 1 ? 'core' : 'cores'}`;

export const templatePark: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const body = newTemplate.parse({
    image: args.word('image'),
    limits: { memoryBytes: args.size('memory'), cpus: args.number('cpus') },
    ready: args.number('ready'),
  });
  const { job } = await client.parkTemplate({ params: {}, body });
  const done = args.unless('wait') ? await waitForJob(client, out, job.id) : job;
  out.result(done, () => `${done.id}  ${done.kind}: ${done.state}`);
  return undefined;
};

export const templateList: Action = async ({ out, connect }) => {
  const { client } = await connect();
  const { items } = await client.listTemplates({ params: {} });
  out.table(
    items,
    [
      { head: 'TEMPLATE', cell: (template) => template.id },
      { head: 'IMAGE', cell: (template) => template.image },
      { head: 'STATE', cell: (template) => template.state, paint: out.state },
      { head: 'FOR', cell: sizeOf },
      { head: 'WAITING', cell: (template) => `${template.waiting}/${template.ready}`, align: 'right' },
      { head: 'SIZE', cell: (template) => formatSize(template.bytes ?? 0), align: 'right' },
      { head: 'KEPT', cell: (template) => (template.kept ? 'yes' : 'no') },
      { head: 'LAST USED', cell: (template) => template.lastUsedAt },
      { head: 'FAILURE', cell: (template) => template.failure?.message },
    ],
    'no templates; make one with: carrel template park tiny',
  );
  return undefined;
};

export const templateRemove: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const wanted = args.word('template');
  const chosen = await choose(client, wanted);
  for (const { id } of chosen) await client.removeTemplate({ params: { template: id } });
  out.result({ templates: chosen.map(({ id }) => id), removed: true }, () =>
    chosen.map(({ id }) => `${id} is removed.`).join('\n'),
  );
  return undefined;
};

/** By id, or all of an image. */
async function choose(client: Client, wanted: string): Promise<Template[]> {
  const { items } = await client.listTemplates({ params: {} });
  const chosen = items.filter(({ id, image }) => id === wanted || image === wanted);
  if (chosen.length > 0) return chosen;
  throw new CarrelError('not_found', `there is no template "${wanted}", and none of an image of that name`, {
    hint: 'list them with: carrel template ls',
  });
}
