import type { CommandSpec } from '../spec.ts';

const course = { name: 'course', doc: 'name or id' } as const;

export const courseCommands: readonly CommandSpec[] = [
  {
    path: 'course new',
    doc: 'make a course',
    arguments: [{ name: 'name', doc: 'a-z, 0-9 and dashes' }],
    options: [
      { flags: '--title <text>', doc: 'its full name' },
      { flags: '--instructor <user>', doc: 'who teaches it', many: true },
    ],
    remote: true,
    examples: [
      {
        line: 'carrel course new os-2026 --title "Operating systems" --instructor ada',
        doc: 'a course and its instructor',
      },
    ],
    load: async () => (await import('../commands/courses.ts')).courseNew,
  },
  {
    path: 'course ls',
    doc: 'list your courses',
    remote: true,
    examples: [{ line: 'carrel course ls', doc: 'with your role in each' }],
    load: async () => (await import('../commands/courses.ts')).courseList,
  },
  {
    path: 'course show',
    doc: 'a course and its labs',
    arguments: [course],
    remote: true,
    examples: [{ line: 'carrel course show os-2026', doc: 'title, members, labs' }],
    load: async () => (await import('../commands/courses.ts')).courseShow,
  },
  {
    path: 'member add',
    doc: 'add someone to a course, or a whole roster',
    more: 'A roster is CSV with a header line: name, and if you like role and section. Who has no account yet gets one\nif you are an administrator.',
    arguments: [course, { name: 'names', doc: 'accounts', optional: true, many: true }],
    options: [
      { flags: '--role <role>', doc: 'their role (student)', choices: ['instructor', 'ta', 'student'] },
      { flags: '--section <text>', doc: 'group or section' },
      { flags: '--file <csv>', doc: 'a roster; - for standard input', complete: 'file' },
      { flags: '--create', doc: 'make missing accounts and print a token for each (administrators)' },
    ],
    remote: true,
    examples: [
      { line: 'carrel member add os-2026 bob --role ta', doc: 'one person' },
      { line: 'carrel member add os-2026 --file roster.csv --create', doc: 'a class' },
    ],
    load: async () => (await import('../commands/courses.ts')).memberAdd,
  },
  {
    path: 'member ls',
    doc: 'who is in a course',
    arguments: [course],
    remote: true,
    examples: [{ line: 'carrel member ls os-2026', doc: 'instructors, TAs, students' }],
    load: async () => (await import('../commands/courses.ts')).memberList,
  },
  {
    path: 'member rm',
    doc: 'remove someone from a course; their submissions stay',
    arguments: [course, { name: 'user', doc: 'name or id' }],
    remote: true,
    examples: [{ line: 'carrel member rm os-2026 bob', doc: 'remove bob' }],
    load: async () => (await import('../commands/courses.ts')).memberRemove,
  },
];
