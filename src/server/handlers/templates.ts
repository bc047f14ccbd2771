/** Templates of virtual machines. */
import type { templateRoutes } from '#contract/routes/templates.ts';
import type { Machines } from '#machines/service.ts';
import type { Db } from '#store/schema.ts';
import type { HandlersFor } from '../handlers.ts';
import { acceptedAnswer } from './job-view.ts';

export interface TemplateServices {
  readonly db: Db;
  /** `unavailable` while machines are not there. */
  readonly machines: () => Promise<Machines>;
}

export function templateHandlers({ db, machines }: TemplateServices): HandlersFor<typeof templateRoutes> {
  return {
    async listTemplates() {
      return { items: await (await machines()).templates.list(), next: null };
    },
    async parkTemplate({ body }, { actor, requestId }) {
      const { templateId, job } = await (await machines()).templates.park(actor, body, { requestId });
      return acceptedAnswer(db, job.id, templateId);
    },
    async removeTemplate({ params }, { actor }) {
      await (await machines()).templates.remove(actor, params.template);
      return undefined;
    },
  };
}
