/** Labs in a course. */
import { resolve } from 'node:path';
import type { Lab, LabChange } from '#contract/schemas/labs.ts';
import { formatSize } from '#base/units.ts';
import { collectFiles, pack, unpack } from '../archive.ts';
import { parseInstant } from '../instant.ts';
import { findLab } from '../lookup.ts';
import type { Action, Context } from '../spec.ts';
import { all } from '../waiting.ts';

export const labImport: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const directory = resolve(args.word('dir'));
  const due = args.option('due');
  const dueAt = due === undefined ? undefined : parseInstant(due);
  const name = args.option('name');
  const bytes = await pack(await collectFiles([directory], directory));
  let lab = await client.importLab(
    { params: { course: args.word('course') }, query: name === undefined ? {} : { name }, bytes },
    { contentType: 'application/x-tar' },
  );
  if (args.flag('release') || dueAt !== undefined)
    lab = await client.changeLab({
      params: { lab: lab.id },
      body: { ...(args.flag('release') && { released: true }), ...(dueAt !== undefined && { dueAt }) },
    });
  out.result(lab, () =>
    [
      `${lab.name} (${lab.id}), version ${lab.version}: ${lab.checks.length} checks, ${lab.points} points`,
      lab.released ? 'Students see it.' : `Students do not see it yet: carrel lab release ${lab.name}`,
    ].join('\n'),
  );
  return undefined;
};

export const labList: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const only = args.wordIf('course');
  const courses =
    only === undefined
      ? (await all((page) => client.listCourses({ params: {}, query: page }))).map((course) => course.name)
      : [only];
  const rows = [];
  for (const course of courses)
    for (const lab of await all((page) => client.listLabs({ params: { course }, query: page })))
      rows.push({ course, ...lab });
  out.table(
    rows,
    [
      { head: 'LAB', cell: (lab) => `${lab.course}/${lab.name}` },
      { head: 'TITLE', cell: (lab) => lab.title },
      { head: 'POINTS', cell: (lab) => lab.points, align: 'right' },
      { head: 'VERSION', cell: (lab) => lab.version, align: 'right' },
      { head: 'RELEASED', cell: (lab) => (lab.released ? 'yes' : 'no') },
      { head: 'DUE', cell: (lab) => lab.dueAt },
      { head: 'ID', cell: (lab) => lab.id },
    ],
    'no labs',
  );
  return undefined;
};

export const labShow: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const lab = await findLab(client, args.word('lab'));
  out.result(lab, () =>
    [
      `${out.paint('bold', lab.title)}  (${lab.name}, ${lab.id}, version ${lab.version})`,
      ...(lab.summary === '' ? [] : ['', lab.summary.trim()]),
      '',
      `runs in     ${placeOf(lab)}`,
      `due         ${lab.dueAt ?? 'never'}${lab.released ? '' : ' (not released)'}`,
      `marks       ${lab.publishedAt ? `published ${lab.publishedAt}` : 'not published'}`,
      'hand in',
      ...lab.files.map(
        (file) =>
          `  ${file.pattern}  at most ${formatSize(file.maxBytes)}${file.required ? '' : ', optional'}`,
      ),
      `checks      ${lab.points} points`,
      ...lab.checks.map(
        (check) => `  ${String(check.points).padStart(4)}  ${check.title} (${check.visibility})`,
      ),
    ].join('\n'),
  );
  return undefined;
};

function placeOf({ run, image, machine }: Lab): string {
  if (machine?.driver === 'micro')
    return `a ${run} of ${image}; yours: a machine for guests of the hypervisor`;
  if (machine?.driver !== 'qemu') return `a ${run} of ${image}`;
  return `a virtual machine of ${image}, ${machine.ready} waiting for students`;
}

async function change(
  { args, out, connect }: Context,
  body: LabChange,
  sentence: string,
): Promise<undefined> {
  const { client } = await connect();
  const { id } = await findLab(client, args.word('lab'));
  const lab = await client.changeLab({ params: { lab: id }, body });
  out.result(lab, () => `${lab.name}: ${sentence}`);
  return undefined;
}

export const labRelease: Action = (context) =>
  context.args.flag('undo')
    ? change(context, { released: false }, 'hidden from students.')
    : change(context, { released: true, ...readyOf(context) }, 'students see it now.');

function readyOf({ args }: Context): Pick<LabChange, 'ready'> {
  const ready = args.number('ready');
  return ready === undefined ? {} : { ready };
}

export const labPublish: Action = (context) =>
  context.args.flag('undo')
    ? change(context, { published: false }, 'marks taken back.')
    : change(context, { published: true }, 'marks published.');

export const labDue: Action = (context) => {
  const dueAt = parseInstant(context.args.word('time'));
  return change(context, { dueAt }, dueAt === null ? 'no due date.' : `due ${dueAt}.`);
};

export const labStartFiles: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const lab = await findLab(client, args.word('lab'));
  const directory = resolve(args.wordIf('dir') ?? lab.name);
  const files = await unpack(await client.getLabStart({ params: { lab: lab.id } }), directory);
  out.result({ directory, files }, () =>
    [`${files.length} files in ${directory}`, ...files.map((file) => `  ${file}`)].join('\n'),
  );
  return undefined;
};
