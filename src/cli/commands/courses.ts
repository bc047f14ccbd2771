/** Courses and their members. */
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { CarrelError, isCarrelError } from '#base/errors.ts';
import type { Client } from '#contract/client.ts';
import { role as roleSchema } from '#contract/schemas/people.ts';
import { parseRoster, type RosterLine } from '../roster.ts';
import type { Action } from '../spec.ts';
import { all } from '../waiting.ts';

export const courseNew: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const name = args.word('name');
  const course = await client.createCourse({
    params: {},
    body: { name, title: args.option('title') ?? name },
  });
  for (const user of args.many('instructor'))
    await client.setMember({ params: { course: name, user }, body: { role: 'instructor' } });
  out.result(course, () => `Course ${name} (${course.id}) stands. Next: carrel lab import ${name} DIR`);
  return undefined;
};

export const courseList: Action = async ({ out, connect }) => {
  const { client } = await connect();
  const courses = await all((page) => client.listCourses({ params: {}, query: page }));
  out.table(
    courses,
    [
      { head: 'NAME', cell: (course) => course.name },
      { head: 'TITLE', cell: (course) => course.title },
      { head: 'ROLE', cell: (course) => course.role },
      { head: 'MEMBERS', cell: (course) => course.members, align: 'right' },
      { head: 'LABS', cell: (course) => course.labs, align: 'right' },
    ],
    'no courses',
  );
  return undefined;
};

export const courseShow: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const name = args.word('course');
  const course = await client.getCourse({ params: { course: name } });
  const labs = await all((page) => client.listLabs({ params: { course: name }, query: page }));
  out.result({ ...course, labList: labs }, () =>
    [
      `${out.paint('bold', course.name)}  ${course.title}`,
      `${course.id}, ${course.members} members${course.role ? `, your role: ${course.role}` : ''}`,
      ...labs.map(
        (lab) => `  ${lab.name}  ${lab.title}, ${lab.points} points${lab.released ? '' : ', not released'}`,
      ),
    ].join('\n'),
  );
  return undefined;
};

async function ensureUser(client: Client, name: string): Promise<string | undefined> {
  try {
    await client.createUser({ params: {}, body: { name } });
  } catch (error) {
    if (isCarrelError(error, 'name_taken')) return undefined;
    throw error;
  }
  const { secret } = await client.createToken({ params: {}, body: { user: name, label: 'first' } });
  return secret;
}

export const memberAdd: Action = async ({ args, out, connect }) => {
  const role = roleSchema.parse(args.option('role') ?? 'student');
  const section = args.option('section') ?? null;
  const file = args.option('file');
  const names = args.words('names');
  if ((file === undefined) === (names.length === 0))
    throw new CarrelError('invalid_request', 'name the accounts, or give a roster with --file, not both');
  const lines: RosterLine[] =
    file === undefined
      ? names.map((name) => ({ name, role, section }))
      : parseRoster(file === '-' ? await text(process.stdin) : await readFile(file, 'utf8'), {
          defaultRole: role,
        });

  const { client } = await connect();
  const course = args.word('course');
  const added: { name: string; role: string; section: string | null; token: string | null }[] = [];
  using progress = out.progress();
  for (const line of lines) {
    progress.update('members', added.length, lines.length);
    const token = args.flag('create') ? await ensureUser(client, line.name) : undefined;
    await client.setMember({
      params: { course, user: line.name },
      body: { role: line.role, section: line.section ?? section },
    });
    added.push({ ...line, token: token ?? null });
  }
  progress.clear();
  out.table(
    added,
    [
      { head: 'NAME', cell: (member) => member.name },
      { head: 'ROLE', cell: (member) => member.role },
      { head: 'SECTION', cell: (member) => member.section },
      ...(args.flag('create')
        ? [{ head: 'TOKEN', cell: (member: { token: string | null }) => member.token ?? '(had an account)' }]
        : []),
    ],
    'nobody',
  );
  return undefined;
};

export const memberList: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const course = args.word('course');
  const members = await all((page) => client.listMembers({ params: { course }, query: page }));
  out.table(
    members,
    [
      { head: 'NAME', cell: (member) => member.name },
      { head: 'ROLE', cell: (member) => member.role },
      { head: 'SECTION', cell: (member) => member.section },
      { head: 'SINCE', cell: (member) => member.joinedAt },
    ],
    'nobody is in this course',
  );
  return undefined;
};

export const memberRemove: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const course = args.word('course');
  const user = args.word('user');
  await client.removeMember({ params: { course, user } });
  out.result(
    { course, user, removed: true },
    () => `${user} is no longer in ${course}; the submissions stay.`,
  );
  return undefined;
};
