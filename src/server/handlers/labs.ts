/** Labs, submissions, grades, regrades. */
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { CarrelError } from '#base/errors.ts';
import type { labRoutes } from '#contract/routes/labs.ts';
import { openLabMachine } from '#classroom/lab-machines.ts';
import { getGradebook } from '#classroom/gradebook.ts';
import { changeLab, folderOf, getLab, importLab, listLabs } from '#classroom/labs.ts';
import { createRegrade, getRegrade, undoRegrade } from '#classroom/regrades.ts';
import {
  getSubmission,
  listGrades,
  listSubmissions,
  submit,
  type SubmissionServices,
} from '#classroom/submissions.ts';
import type { Viewer } from '#classroom/views.ts';
import type { ArchiveFormat } from '#images/archive/read.ts';
import { writeTar, type TarInput } from '#images/archive/tarwriter.ts';
import type { Machines } from '#machines/service.ts';
import { selectLab } from '#store/labs.ts';
import { selectSubmission } from '#store/submissions.ts';
import { isStaff } from '../auth/access.ts';
import type { Call, HandlersFor } from '../handlers.ts';
import { answer } from '../http/answer.ts';
import { requireMatch } from '../http/etag.ts';
import { acceptedAnswer, getJobView, withoutSecrets } from './job-view.ts';

/** The format is what the content type states; the bytes are never asked. */
const formats: Readonly<Record<string, ArchiveFormat>> = {
  'application/x-tar': 'tar',
  'application/gzip': 'tar.gz',
  'application/zip': 'zip',
};

function formatOf({ mediaType }: Call): ArchiveFormat {
  const format = formats[mediaType ?? ''];
  if (!format)
    throw new CarrelError('unsupported_media_type', 'the content type must state the format of the archive', {
      hint: `one of ${Object.keys(formats).join(', ')}`,
    });
  return format;
}

function viewerOf({ actor, role }: Call): Viewer {
  return { staff: actor.admin || isStaff(role), now: new Date() };
}

function tarStream(entries: AsyncIterable<TarInput> | Iterable<TarInput>): ReadableStream<Uint8Array> {
  return ReadableStream.from(writeTar(entries));
}

export interface LabHandlerServices extends SubmissionServices {
  /** `unavailable` while machines are not there. */
  readonly machines: () => Promise<Machines>;
}

export function labHandlers(services: LabHandlerServices): HandlersFor<typeof labRoutes> {
  const { db, blobs } = services;
  return {
    listLabs: ({ params, query }, call) => listLabs(services, params.course, query, viewerOf(call)),

    importLab: ({ params, query, bytes }, call) =>
      importLab(services, call.actor, params.course, {
        source: bytes,
        format: formatOf(call),
        name: query.name,
      }),

    async getLab({ params }, call) {
      const { lab, etag } = await getLab(services, params.lab, viewerOf(call));
      return answer(lab, { etag });
    },

    async changeLab({ params, body }, { actor, ifMatch }) {
      const { lab, etag } = await changeLab(services, actor, params.lab, body, (seen) =>
        requireMatch(ifMatch, seen, 'the lab'),
      );
      return answer(lab, { etag });
    },

    async getLabStart({ params }) {
      const { folder } = await folderOf(services, await selectLab(db, params.lab));
      return tarStream(
        folder.start.map(({ path, bytes }) => ({
          path,
          kind: 'file',
          size: bytes,
          data: createReadStream(join(folder.directory, 'start', path)),
        })),
      );
    },

    async openLabMachine({ params, body }, { actor, requestId }) {
      const opened = await openLabMachine(services, await services.machines(), actor, params.lab, body, {
        requestId,
      });
      return acceptedAnswer(db, opened.job.id, opened.machineId);
    },

    async submit({ params, bytes }, call) {
      const { submissionId, jobId } = await submit(
        services,
        call.actor,
        params.lab,
        { source: bytes, format: formatOf(call) },
        call.requestId,
      );
      const value = {
        submission: await getSubmission(services, submissionId, viewerOf(call)),
        job: withoutSecrets(await getJobView(db, jobId)),
      };
      return answer(value, { location: `/v1/jobs/${jobId}` });
    },

    listSubmissions: ({ params, query }, call) =>
      listSubmissions(services, call.actor, params.lab, query, viewerOf(call)),

    getSubmission: ({ params }, call) => getSubmission(services, params.submission, viewerOf(call)),

    async getSubmissionArchive({ params }) {
      const { files } = await selectSubmission(db, params.submission);
      return tarStream(
        files.map(({ path, bytes, hash }) => ({ path, kind: 'file', size: bytes, data: blobs.read(hash) })),
      );
    },

    async listGrades({ params }, call) {
      return { items: await listGrades(services, params.submission, viewerOf(call)), next: null };
    },

    async getGradebook({ params }) {
      return { items: await getGradebook(services, params.lab), next: null };
    },

    async createRegrade({ params, body }, { actor, requestId }) {
      const { regradeId, jobId } = await createRegrade(db, actor, params.lab, body.submissions, requestId);
      const value = { regrade: await getRegrade(db, regradeId), job: await getJobView(db, jobId) };
      return answer(value, { location: `/v1/jobs/${jobId}` });
    },

    getRegrade: ({ params }) => getRegrade(db, params.regrade),
    undoRegrade: ({ params }, { actor }) => undoRegrade(db, actor, params.regrade),
  };
}
