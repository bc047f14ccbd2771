import { listOf } from '../schemas/common.ts';
import { accepted } from '../schemas/jobs.ts';
import { newTemplate, template } from '../schemas/templates.ts';
import type { Route } from '../route.ts';

/** Virtual machines that booted ahead of time: new ones of the same image and size are copies of them. */
export const templateRoutes = {
  listTemplates: {
    method: 'GET',
    path: '/v1/templates',
    doc: 'List the templates of virtual machines, the newest first',
    access: 'user',
    reply: listOf(template),
  },
  parkTemplate: {
    method: 'POST',
    path: '/v1/templates',
    doc: 'Boot an image once and park it, so that machines of this size start as copies; again: change how many wait',
    access: 'admin',
    body: newTemplate,
    reply: accepted,
    status: 202,
    idempotent: true,
  },
  removeTemplate: {
    method: 'DELETE',
    path: '/v1/templates/{template}',
    doc: 'Remove a template; machines that were made of it go on',
    access: 'admin',
    status: 204,
  },
} as const satisfies Record<string, Route>;
