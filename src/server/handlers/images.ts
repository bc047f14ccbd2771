/** Images. */
import type { machineRoutes } from '#contract/routes/machines.ts';
import type { Db } from '#store/schema.ts';
import type { HandlersFor } from '../handlers.ts';
import type { ImageRegistry } from '../images.ts';
import { acceptedAnswer } from './job-view.ts';
import { decodeCursor, pageOf } from '#contract/page.ts';

type ImageRoutes = Pick<
  typeof machineRoutes,
  'listImages' | 'buildImage' | 'importImage' | 'exportImage' | 'getImage' | 'removeImage'
>;

export function imageHandlers({
  db,
  registry,
}: {
  readonly db: Db;
  readonly registry: ImageRegistry;
}): HandlersFor<ImageRoutes> {
  return {
    async listImages({ query: { cursor, limit } }) {
      const after = cursor === undefined ? '' : (decodeCursor(cursor, 1)[0] ?? '');
      const rest = (await registry.list()).filter(({ name }) => name > after);
      return pageOf(
        rest,
        limit,
        (image) => image,
        ({ name }) => [name],
      );
    },
    async buildImage({ body }, { actor, requestId }) {
      const { jobId, id } = await registry.build(actor, body.recipe, requestId);
      return acceptedAnswer(db, jobId, id);
    },
    async importImage({ query, bytes }, { actor, signal }) {
      return registry.import(actor, { ...query, sha256: query.sha256, source: bytes, signal });
    },
    async exportImage({ params, query }) {
      const chunks = (await registry.export(params.image, query.format))[Symbol.asyncIterator]();
      return new ReadableStream<Uint8Array>({
        async pull(controller) {
          const next = await chunks.next();
          if (next.done === true) controller.close();
          else controller.enqueue(next.value);
        },
        // What was made for the download goes when it is broken off.
        async cancel() {
          await chunks.return?.();
        },
      });
    },
    async getImage({ params }) {
      return registry.get(params.image);
    },
    async removeImage({ params }, { actor }) {
      await registry.remove(actor, params.image);
      return undefined;
    },
  };
}
