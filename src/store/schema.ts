/** The tables by name: the type every query is checked against. Each table is described in its own file. */
import type { Kysely, Transaction } from 'kysely';
import type { AddressTable } from './addresses.ts';
import type { BlobTable } from './blobs.ts';
import type { CourseTable } from './courses.ts';
import type { EventTable } from './events.ts';
import type { ExecTable } from './execs.ts';
import type { ForwardTable } from './forwards.ts';
import type { GradeTable, RegradeTable } from './grades.ts';
import type { IdempotencyTable } from './idempotency.ts';
import type { ImageTable } from './images.ts';
import type { JobLogTable, JobTable } from './jobs.ts';
import type { LabTable, LabVersionTable } from './labs.ts';
import type { MachineTable } from './machines.ts';
import type { MemberTable } from './members.ts';
import type { NetworkTable } from './networks.ts';
import type { OsCloudMachineTable } from './oscloud.ts';
import type { ScriptLineTable, ScriptTable } from './scripts.ts';
import type { SnapshotTable } from './snapshots.ts';
import type { SubmissionTable } from './submissions.ts';
import type { SpareTable, TemplateTable } from './templates.ts';
import type { TokenTable } from './tokens.ts';
import type { UserTable } from './users.ts';

export interface Schema {
  users: UserTable;
  tokens: TokenTable;
  courses: CourseTable;
  members: MemberTable;
  labs: LabTable;
  lab_versions: LabVersionTable;
  submissions: SubmissionTable;
  grades: GradeTable;
  regrades: RegradeTable;
  jobs: JobTable;
  job_logs: JobLogTable;
  events: EventTable;
  idempotency: IdempotencyTable;
  networks: NetworkTable;
  addresses: AddressTable;
  images: ImageTable;
  machines: MachineTable;
  execs: ExecTable;
  blobs: BlobTable;
  machine_snapshots: SnapshotTable;
  machine_forwards: ForwardTable;
  machine_scripts: ScriptTable;
  machine_script_lines: ScriptLineTable;
  oscloud_machines: OsCloudMachineTable;
  vm_templates: TemplateTable;
  vm_spares: SpareTable;
}

/** Where a query runs: the pool, or a transaction (which is one too). */
export type Db = Kysely<Schema>;
/** For functions that are only right inside the caller's transaction. */
export type Tx = Transaction<Schema>;
