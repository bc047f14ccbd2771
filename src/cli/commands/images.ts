/** Images. */
import { createReadStream, createWriteStream } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { CarrelError, errnoOf } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';
import type { Job } from '#contract/schemas/jobs.ts';
import { type ImageDetails, imageFormat } from '#contract/schemas/machines.ts';
import { chunksOf } from '../archive.ts';
import { download, isAddress } from '../download.ts';
import type { Action } from '../spec.ts';
import type { Output } from '../ui/output.ts';
import { printable } from '../ui/style.ts';
import { all, waitForJob } from '../waiting.ts';

export const imageBuild: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const jobs: Job[] = [];
  for (const recipe of args.words('recipes')) {
    const { job } = await client.buildImage({ params: {}, body: { recipe } });
    jobs.push(args.unless('wait') ? await waitForJob(client, out, job.id) : job);
  }
  out.result(jobs, () => jobs.map((job) => `${job.id}  ${job.kind}: ${job.state}`).join('\n'));
  return undefined;
};

export const imageList: Action = async ({ out, connect }) => {
  const { client } = await connect();
  const images = await all((page) => client.listImages({ params: {}, query: page }));
  out.table(
    images,
    [
      { head: 'NAME', cell: (image) => image.name },
      { head: 'STATE', cell: (image) => (image.outdated ? 'outdated' : image.state), paint: out.state },
      { head: 'SIZE', cell: (image) => formatSize(image.bytes), align: 'right' },
      { head: 'FILES', cell: (image) => image.files, align: 'right' },
      { head: 'HASH', cell: (image) => image.hash?.slice(0, 12) },
      { head: 'WHAT', cell: (image) => image.description },
    ],
    'no images; build one with: carrel image build busybox',
  );
  return undefined;
};

/** A step that was run in the machine when its image was made, and what it said. */
function onlineText({ argv, status, ms, output }: ImageDetails['online'][number], { paint }: Output): string {
  const head = `${paint('bold', `in the machine: ${argv.join(' ')}`)}  (status ${status ?? '-'}, ${(ms / 1000).toFixed(1)} s)`;
  return output === '' ? head : `${head}\n${printable(output)}`;
}

export const imageShow: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const image = await client.getImage({ params: { image: args.word('image') } });
  out.result(image, () =>
    [
      `${out.paint('bold', image.name)}  ${image.description}`,
      `${image.id}, ${image.kind}, ${out.state(image.state)}`,
      `${formatSize(image.bytes)} in ${image.files} files`,
      `sha256 ${image.hash ?? '-'}`,
      ...(image.outdated
        ? [`Its recipe has changed since it was made; anew with: carrel image build ${image.name}`]
        : []),
      ...image.online.map((step) => `\n${onlineText(step, out)}`),
    ].join('\n'),
  );
  return undefined;
};

type Format = (typeof imageFormat.options)[number];

/** C and assembly, compiled here; an ELF program as it is. */
const isGuest = (file: string): boolean => /\.(?:c|s|S|elf)$/.test(file);

/** A guest's mode is a part of its format. */
function formatOf(file: string, stated: string | undefined, mode?: string): Format {
  if (mode !== undefined && stated !== undefined && stated !== `guest-${mode}`)
    throw new CarrelError('invalid_request', `--mode ${mode} and --format ${stated} exclude each other`);
  if (isGuest(file) || mode !== undefined) return imageFormat.parse(stated ?? `guest-${mode ?? 'long'}`);
  const ending = file.endsWith('.tgz') ? 'tar.gz' : /\.(tar(?:\.gz|\.zst)?|qcow2|raw)$/.exec(file)?.[1];
  const parsed = imageFormat.safeParse(stated ?? ending);
  if (!parsed.success)
    throw new CarrelError('invalid_request', `what format is ${file}?`, {
      hint: `say it with --format: ${imageFormat.options.join(', ')}`,
    });
  return parsed.data;
}

/** The program of a guest in C or assembly. */
async function compiled(file: string, format: Format): Promise<Buffer> {
  if (isAddress(file))
    throw new CarrelError(
      'invalid_request',
      `${file} is source code, which is compiled here only from a file`,
      {
        hint: 'fetch it first',
      },
    );
  const [{ compileElf }, { modes }, { modeNames }] = await Promise.all([
    import('#vmm/image/compile.ts'),
    import('#vmm/modes/table.ts'),
    import('#vmm/modes/mode.ts'),
  ]);
  const mode = modeNames.find((name) => format === `guest-${name}`);
  if (!mode)
    throw new CarrelError('invalid_request', `${file} is a guest, and ${format} is no format of one`, {
      hint: 'choose a mode: --mode long',
    });
  return await compileElf(file, modes[mode]);
}

/** The bytes of a file, of standard input, or of an address; of a guest's source, those of its program. */
async function sourceOf(
  file: string,
  format: Format,
): Promise<ReadableStream<Uint8Array> & Partial<AsyncDisposable>> {
  if (isGuest(file) && !file.endsWith('.elf'))
    return Readable.toWeb(Readable.from([await compiled(file, format)]));
  if (file === '-') return Readable.toWeb(process.stdin);
  if (isAddress(file)) return download(file);
  if (!(await stat(file)).isFile()) throw new CarrelError('invalid_request', `${file} is not a file`);
  return Readable.toWeb(createReadStream(file, { highWaterMark: 2 ** 20 }));
}

export const imageImport: Action = async ({ args, out, connect }) => {
  const file = args.word('file');
  const format = formatOf(file, args.option('format'), args.option('mode'));
  const sha256 = args.option('sha256')?.toLowerCase();
  const { client } = await connect();
  using progress = out.progress();
  progress.update(`importing ${file}`);
  const bytes = await sourceOf(file, format);
  const query = { name: args.word('name'), format, ...(sha256 !== undefined && { sha256 }) };
  const image = await client.importImage({ params: {}, query, bytes });
  progress.clear();
  out.result(image, () => `${image.name} (${image.id}): ${formatSize(image.bytes)} in ${image.files} files`);
  return undefined;
};

/** What an image is written as unless told otherwise. */
const usualFormat = { rootfs: 'tar', disk: 'qcow2', guest: 'guest-long' } as const;

export const imageExport: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const image = await client.getImage({ params: { image: args.word('image') } });
  const stated = args.option('format') ?? usualFormat[image.kind];
  const format = formatOf(image.name, stated);
  const file = args.wordIf('file') ?? `${image.name}.${format}`;
  const data = await client.exportImage({ params: { image: image.id }, query: { format } });
  if (file === '-') {
    for await (const chunk of chunksOf(data)) await out.bytes(chunk);
    return undefined;
  }
  const stream = createWriteStream(file, { flags: 'wx' });
  using progress = out.progress();
  progress.update(`exporting ${image.name}`);
  try {
    await pipeline(Readable.from(chunksOf(data)), stream);
  } catch (error) {
    // Only what this command made.
    if (errnoOf(error) !== 'EEXIST') await rm(file, { force: true });
    throw error;
  }
  progress.clear();
  out.result({ file, bytes: stream.bytesWritten }, () => `${file}  ${formatSize(stream.bytesWritten)}`);
  return undefined;
};

export const imageRemove: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const image = args.word('image');
  await client.removeImage({ params: { image } });
  out.result({ image, removed: true }, () => `${image} is removed.`);
  return undefined;
};
