import type { CommandSpec } from '../spec.ts';
import { sshKey } from './options.ts';

const lab = { name: 'lab', doc: 'COURSE/LAB, a lab’s name, or its id' } as const;
const submission = { name: 'submission', doc: 'its id (s-...), or a lab: your newest one there' } as const;

export const labCommands: readonly CommandSpec[] = [
  {
    path: 'lab check',
    doc: 'prove a lab folder: every solution gets exactly what it promises',
    more: 'Runs the reference and the known-bad solutions as submissions. A check that no known-bad solution fails is\nlisted as unproven.',
    arguments: [{ name: 'dir', doc: 'the lab’s folder', complete: 'directory' }],
    options: [{ flags: '--static', doc: 'read and validate only; run nothing' }],
    examples: [
      { line: 'carrel lab check labs/reach-number', doc: 'run all its solutions' },
      { line: 'carrel lab check labs/reach-number --static', doc: 'is the folder well-formed?' },
    ],
    load: async () => (await import('../commands/lab-check.ts')).labCheck,
  },
  {
    path: 'lab import',
    doc: 'import a lab folder into a course; again for a new version',
    arguments: [
      { name: 'course', doc: 'name or id' },
      { name: 'dir', doc: 'the lab’s folder', complete: 'directory' },
    ],
    options: [
      { flags: '--name <name>', doc: 'under this name' },
      { flags: '--release', doc: 'release it at once' },
      { flags: '--due <time>', doc: 'when it is due' },
    ],
    remote: true,
    examples: [
      { line: 'carrel lab import os-2026 labs/reach-number', doc: 'students do not see it yet' },
      {
        line: 'carrel lab import os-2026 labs/reach-number --release --due 2026-12-01T23:59Z',
        doc: 'they do',
      },
    ],
    load: async () => (await import('../commands/labs.ts')).labImport,
  },
  {
    path: 'lab ls',
    doc: 'list labs',
    arguments: [{ name: 'course', doc: 'of this course only', optional: true }],
    remote: true,
    examples: [{ line: 'carrel lab ls os-2026', doc: 'with due dates and points' }],
    load: async () => (await import('../commands/labs.ts')).labList,
  },
  {
    path: 'lab show',
    doc: 'a lab: what to hand in, what is checked',
    arguments: [lab],
    remote: true,
    examples: [{ line: 'carrel lab show os-2026/reach-number', doc: 'files, checks, points, due date' }],
    load: async () => (await import('../commands/labs.ts')).labShow,
  },
  {
    path: 'lab release',
    doc: 'let students see a lab; --undo hides it again',
    arguments: [lab],
    options: [
      { flags: '--undo', doc: 'hide it again' },
      {
        flags: '--ready <n>',
        doc: 'virtual machines that shall wait for students, ready to be used (as the lab says)',
      },
    ],
    remote: true,
    examples: [
      { line: 'carrel lab release reach-number', doc: 'open it' },
      { line: 'carrel lab release boot-service --ready 4', doc: 'before an hour in which all begin' },
    ],
    load: async () => (await import('../commands/labs.ts')).labRelease,
  },
  {
    path: 'lab due',
    doc: 'set when a lab is due',
    arguments: [lab, { name: 'time', doc: '2026-12-01T23:59Z, +7d, or never' }],
    remote: true,
    examples: [
      { line: 'carrel lab due reach-number 2026-12-01T23:59Z', doc: 'an instant' },
      { line: 'carrel lab due reach-number +7d', doc: 'a week from now' },
      { line: 'carrel lab due reach-number never', doc: 'no due date' },
    ],
    load: async () => (await import('../commands/labs.ts')).labDue,
  },
  {
    path: 'lab publish',
    doc: 'publish the marks of a lab; --undo takes them back',
    arguments: [lab],
    options: [{ flags: '--undo', doc: 'take them back' }],
    remote: true,
    examples: [
      { line: 'carrel lab publish reach-number', doc: 'students see checks that wait for publication' },
    ],
    load: async () => (await import('../commands/labs.ts')).labPublish,
  },
  {
    path: 'lab open',
    doc: 'open your machine for a lab: the one you have, or a new one',
    more: 'A machine as the lab describes it, which is yours; the staff of the course see it. Once made, it stays until you\nremove it: carrel machine rm. One for guests of the hypervisor has the start files in it; what you changed of them\nstays.',
    arguments: [lab],
    options: [
      { flags: '--name <name>', doc: 'what a new one is called (as the lab)' },
      sshKey,
      { flags: '--no-wait', doc: 'return at once' },
    ],
    remote: true,
    examples: [
      { line: 'carrel lab open boot-service', doc: 'and say how to get in' },
      { line: 'carrel lab open kvm-files', doc: 'then: carrel machine run kvm-files try.c' },
      { line: 'carrel lab open os-2026/boot-service --ssh-key ~/.ssh/id_ed25519.pub', doc: 'by ssh, too' },
    ],
    load: async () => (await import('../commands/lab-open.ts')).labOpen,
  },
  {
    path: 'lab start-files',
    doc: 'fetch the files a lab begins with',
    arguments: [
      lab,
      { name: 'dir', doc: 'where to (a folder named after the lab)', optional: true, complete: 'directory' },
    ],
    remote: true,
    examples: [{ line: 'carrel lab start-files reach-number', doc: 'into ./reach-number' }],
    load: async () => (await import('../commands/labs.ts')).labStartFiles,
  },
  {
    path: 'submit',
    doc: 'hand in files; the receipt is final, grading follows',
    more: 'A folder is handed in with its content; a file under the path by which the lab asks for it.',
    arguments: [lab, { name: 'files', doc: 'files and folders', many: true, complete: 'file' }],
    options: [
      { flags: '--machine <machine>', doc: 'the files are in this machine, and not here' },
      { flags: '--no-wait', doc: 'return with the receipt; do not wait for the marks' },
    ],
    remote: true,
    examples: [
      { line: 'carrel submit reach-number solution.py', doc: 'and wait for the marks' },
      { line: 'carrel submit os-2026/first-namespaces . --no-wait', doc: 'everything here' },
      { line: 'carrel submit kvm-files files.c --machine kvm-files', doc: 'as it is in your machine' },
    ],
    load: async () => (await import('../commands/submit.ts')).submit,
  },
  {
    path: 'submission ls',
    doc: 'list submissions: your own, or for staff everybody’s',
    arguments: [lab],
    options: [{ flags: '--user <name>', doc: 'of this student' }],
    remote: true,
    examples: [{ line: 'carrel submission ls reach-number', doc: 'newest first' }],
    load: async () => (await import('../commands/submissions.ts')).submissionList,
  },
  {
    path: 'submission show',
    doc: 'a receipt: what was handed in, when, and where grading stands',
    arguments: [submission],
    remote: true,
    examples: [{ line: 'carrel submission show s-0123456789ab', doc: 'files with their hashes' }],
    load: async () => (await import('../commands/submissions.ts')).submissionShow,
  },
  {
    path: 'submission download',
    doc: 'fetch what was handed in',
    arguments: [
      submission,
      { name: 'dir', doc: 'where to (a folder named after it)', optional: true, complete: 'directory' },
    ],
    options: [{ flags: '--tar', doc: 'the archive to standard output' }],
    remote: true,
    examples: [{ line: 'carrel submission download s-0123456789ab', doc: 'into ./s-0123456789ab' }],
    load: async () => (await import('../commands/submissions.ts')).submissionDownload,
  },
  {
    path: 'grade show',
    doc: 'the marks of a submission, with the reason of each',
    arguments: [submission],
    options: [
      { flags: '--output', doc: 'what the program printed, too' },
      { flags: '--all', doc: 'earlier grades as well (staff)' },
    ],
    remote: true,
    examples: [
      { line: 'carrel grade show reach-number', doc: 'of your newest submission' },
      { line: 'carrel grade show s-0123456789ab --output', doc: 'of one submission' },
    ],
    load: async () => (await import('../commands/grades.ts')).gradeShow,
  },
  {
    path: 'gradebook',
    doc: 'a line for each student',
    arguments: [lab],
    options: [{ flags: '--csv', doc: 'for a spreadsheet' }],
    remote: true,
    examples: [
      { line: 'carrel gradebook reach-number', doc: 'on the screen' },
      { line: 'carrel gradebook reach-number --csv > marks.csv', doc: 'to a file' },
    ],
    load: async () => (await import('../commands/grades.ts')).gradebook,
  },
  {
    path: 'regrade start',
    byDefault: true,
    doc: 'grade a lab’s submissions again, with its current version',
    more: 'The old grades stay beside the new ones; `carrel regrade undo` makes them current again.',
    arguments: [lab, { name: 'submissions', doc: 'only these (all)', optional: true, many: true }],
    options: [{ flags: '--no-wait', doc: 'do not wait for the difference' }],
    remote: true,
    examples: [
      { line: 'carrel regrade reach-number', doc: 'all of them; shows what changed' },
      { line: 'carrel regrade reach-number s-0123456789ab', doc: 'one' },
    ],
    load: async () => (await import('../commands/regrade.ts')).regradeStart,
  },
  {
    path: 'regrade show',
    doc: 'the difference a regrade makes',
    arguments: [lab, { name: 'regrade', doc: 'its id (r-...)' }],
    remote: true,
    examples: [
      { line: 'carrel regrade show reach-number r-0123456789ab', doc: 'before, after, which checks' },
    ],
    load: async () => (await import('../commands/regrade.ts')).regradeShow,
  },
  {
    path: 'regrade undo',
    doc: 'make the grades from before a regrade current again',
    arguments: [lab, { name: 'regrade', doc: 'its id (r-...)' }],
    remote: true,
    examples: [{ line: 'carrel regrade undo reach-number r-0123456789ab', doc: 'as if it had not been' }],
    load: async () => (await import('../commands/regrade.ts')).regradeUndo,
  },
];
