/** For the test of access: what each role gets of each operation on objects of one course. */
import type { Operation } from '#contract/api.ts';

export const roles = [
  'closed',
  'anonymous',
  'stranger',
  'otherStudent',
  'student',
  'ta',
  'instructor',
  'admin',
] as const;
export type RoleName = (typeof roles)[number];
type Outcome = 'ok' | 401 | 403 | 404;
type Line = Readonly<Record<RoleName, Outcome>>;

const base = { closed: 401, anonymous: 401, admin: 'ok' } as const;
const everyone: Line = {
  ...base,
  anonymous: 'ok',
  stranger: 'ok',
  otherStudent: 'ok',
  student: 'ok',
  ta: 'ok',
  instructor: 'ok',
};
const signedIn: Line = { ...everyone, anonymous: 401 };
const administrators: Line = {
  ...base,
  stranger: 403,
  otherStudent: 403,
  student: 403,
  ta: 403,
  instructor: 403,
};
const members: Line = {
  ...base,
  stranger: 404,
  otherStudent: 'ok',
  student: 'ok',
  ta: 'ok',
  instructor: 'ok',
};
const staff: Line = { ...base, stranger: 404, otherStudent: 403, student: 403, ta: 'ok', instructor: 'ok' };
const instructors: Line = { ...staff, ta: 403 };
/** What is the student's: he and the staff of the course. */
const hisAndStaff: Line = {
  ...base,
  stranger: 404,
  otherStudent: 404,
  student: 'ok',
  ta: 'ok',
  instructor: 'ok',
};
/** The same for what classmates know to exist. */
const notOfClassmates: Line = { ...hisAndStaff, otherStudent: 403 };
const hisAlone: Line = { ...hisAndStaff, ta: 404, instructor: 404 };

/** Written by hand, apart from the routes' `access` words: a route that is added without a line here does not compile. */
export const expected: Readonly<Record<Operation, Line>> = {
  getHealth: everyone,
  getOpenApi: everyone,
  listJobs: signedIn,
  getJob: hisAndStaff,
  getJobLog: hisAndStaff,
  cancelJob: hisAndStaff,
  listEvents: signedIn,
  pollEvents: signedIn,
  getMe: signedIn,
  listUsers: administrators,
  createUser: administrators,
  disableUser: administrators,
  listTokens: signedIn,
  createToken: signedIn,
  revokeToken: hisAlone,
  listCourses: signedIn,
  createCourse: administrators,
  getCourse: members,
  changeCourse: instructors,
  listMembers: staff,
  getMember: staff,
  setMember: instructors,
  removeMember: instructors,
  listLabs: members,
  importLab: instructors,
  getLab: members,
  changeLab: instructors,
  getLabStart: members,
  openLabMachine: members,
  submit: members,
  listSubmissions: members,
  getSubmission: notOfClassmates,
  getSubmissionArchive: notOfClassmates,
  listGrades: notOfClassmates,
  getGradebook: staff,
  createRegrade: staff,
  getRegrade: staff,
  undoRegrade: staff,
  listMachines: signedIn,
  createMachine: signedIn,
  getMachine: hisAndStaff,
  deleteMachine: hisAndStaff,
  startMachine: hisAndStaff,
  stopMachine: hisAndStaff,
  restartMachine: hisAndStaff,
  pauseMachine: hisAndStaff,
  resumeMachine: hisAndStaff,
  runInMachine: hisAndStaff,
  createExec: hisAndStaff,
  getExec: hisAndStaff,
  getExecOutput: hisAndStaff,
  attachExec: hisAndStaff,
  attachConsole: hisAndStaff,
  readFile: hisAndStaff,
  writeFile: hisAndStaff,
  getStats: hisAndStaff,
  inspectMachine: hisAndStaff,
  listAllForwards: signedIn,
  listForwards: hisAndStaff,
  createForward: hisAndStaff,
  removeForward: hisAndStaff,
  listScripts: hisAndStaff,
  runScript: hisAndStaff,
  getScript: hisAndStaff,
  getOsCloudTables: signedIn,
  listImages: signedIn,
  buildImage: administrators,
  importImage: administrators,
  exportImage: administrators,
  getImage: signedIn,
  removeImage: administrators,
  listNetworks: signedIn,
  createNetwork: administrators,
  getNetwork: signedIn,
  deleteNetwork: administrators,
  listSnapshots: hisAndStaff,
  createSnapshot: hisAndStaff,
  deleteSnapshot: hisAndStaff,
  restoreSnapshot: hisAndStaff,
  cloneMachine: hisAndStaff,
  resetPassword: hisAndStaff,
  getConsoleTranscript: hisAndStaff,
  listTemplates: signedIn,
  parkTemplate: administrators,
  removeTemplate: administrators,
};
