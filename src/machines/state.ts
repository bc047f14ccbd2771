/**
 * The life of a machine: four states that last, and the activity that leads from one to another.
 *
 *                 create                    start, restart
 *      (nothing) ────────▶ stopped ◀───────────────────────────▶ running
 *                             ▲        stop, or init ended        │  ▲
 *                             │                             pause │  │ resume
 *                             │              stop                 ▼  │
 *                             └─────────────────────────────── paused
 *
 *      failed: an activity could not be finished; start tries again, stop tidies up to stopped.
 *      remove leads from everywhere to (nothing).
 *
 * Beside the verbs there is work at the disk, which leaves the state as it is: `snapshotting` (a snapshot is made
 * or forgotten) and `restoring` (the disk becomes what it was; what ran is powered off before and started after).
 *
 * The activity is the lock: while one is set, the same verb joins it, remove takes over, and any other verb
 * is refused with what is going on. A verb whose end is already reached changes nothing and succeeds.
 * `gen` grows with every change and is the fencing token of the job that does the work: a job whose
 * generation is no longer the machine's has been overtaken and must not write.
 */
import type { Activity, MachineState } from '#contract/schemas/machines.ts';

export const verbs = ['start', 'stop', 'restart', 'pause', 'resume', 'remove'] as const;
export type Verb = (typeof verbs)[number];

export interface Standing {
  readonly state: MachineState;
  readonly activity: Activity | null;
}

export type Decision =
  /** Set this activity and do the work. */
  | { readonly kind: 'begin'; readonly activity: Activity }
  /** Already so. */
  | { readonly kind: 'done' }
  /** Being done already: wait for that. */
  | { readonly kind: 'join' }
  | { readonly kind: 'refused'; readonly reason: string; readonly hint: string };

/** What is going on once a verb has begun. */
export const activityOfVerb: Readonly<Record<Verb, Activity>> = {
  start: 'starting',
  stop: 'stopping',
  restart: 'restarting',
  pause: 'pausing',
  resume: 'resuming',
  remove: 'deleting',
};

type Row = Readonly<Record<Exclude<Verb, 'remove'>, 'begin' | 'done' | { reason: string; hint: string }>>;

const off = (what: string): Pick<Row, 'pause' | 'resume'> => ({
  pause: { reason: `it ${what}`, hint: 'start it first' },
  resume: { reason: `it ${what}`, hint: 'start it instead' },
});

/** What a verb means when nothing else is going on. */
const table: Readonly<Record<MachineState, Row>> = {
  stopped: { start: 'begin', stop: 'done', restart: 'begin', ...off('is stopped') },
  running: { start: 'done', stop: 'begin', restart: 'begin', pause: 'begin', resume: 'done' },
  paused: {
    start: { reason: 'it is paused', hint: 'resume it instead' },
    stop: 'begin',
    restart: 'begin',
    pause: 'done',
    resume: 'begin',
  },
  failed: { start: 'begin', stop: 'begin', restart: 'begin', ...off('has failed') },
};

/** What to do about a verb. Pure: the caller holds the row locked. */
export function decide({ state, activity }: Standing, verb: Verb): Decision {
  if (activity === activityOfVerb[verb]) return { kind: 'join' };
  if (verb === 'remove') return { kind: 'begin', activity: 'deleting' };
  if (activity !== null) return occupied(activity);
  const rule = table[state][verb];
  if (rule === 'begin') return { kind: 'begin', activity: activityOfVerb[verb] };
  if (rule === 'done') return { kind: 'done' };
  return { kind: 'refused', ...rule };
}

function occupied(activity: Activity): Decision {
  return {
    kind: 'refused',
    reason: `it is ${activity} right now`,
    hint: activity === 'deleting' ? 'make a new one' : 'wait until that is done: GET ...?gen=N&wait=30',
  };
}

export type DiskWork = 'snapshotting' | 'restoring';

/** What to do about work at the disk. It is never joined: two snapshots are two. */
export function decideDiskWork({ state, activity }: Standing, work: DiskWork): Decision {
  if (activity !== null) return occupied(activity);
  if (state === 'failed' && work === 'snapshotting')
    return { kind: 'refused', reason: 'it has failed', hint: 'start it, or stop it, first' };
  return { kind: 'begin', activity: work };
}

const ends: Readonly<Record<Exclude<Activity, DiskWork>, MachineState | null>> = {
  creating: 'running',
  starting: 'running',
  restarting: 'running',
  resuming: 'running',
  stopping: 'stopped',
  pausing: 'paused',
  deleting: null,
};

/**
 * The state after an activity that succeeded, begun in `state` (a machine may also be made without starting it);
 * null: it is gone.
 */
export function settled(
  activity: Activity,
  state: MachineState,
  { start = true }: { start?: boolean } = {},
): MachineState | null {
  if (activity === 'snapshotting') return state;
  if (activity === 'restoring') return state === 'running' ? 'running' : 'stopped';
  return activity === 'creating' && !start ? 'stopped' : ends[activity];
}

/**
 * The state after an activity that failed and was undone. A pause, a resume or a snapshot that fails leaves the
 * machine as it was found; whatever else fails has left no process behind, and says so as `failed`.
 */
export function undone(activity: Activity, state: MachineState): MachineState {
  if (activity === 'snapshotting') return state;
  if (activity === 'pausing') return 'running';
  if (activity === 'resuming') return 'paused';
  return 'failed';
}

/** Its processes end, or have ended. */
const ending: ReadonlySet<Activity> = new Set(['deleting', 'stopping', 'restarting', 'restoring']);

/** Do programs run in it right now? (run, console, files, stats) */
export function isAnswering({ state, activity }: Standing): boolean {
  return state === 'running' && !(activity !== null && ending.has(activity));
}
