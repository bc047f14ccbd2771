/**
 * A finding of the doctor: what is there, what follows, and what to do. Probes try things out rather than
 * trust version numbers; each cleans up, has a limit, and never changes the host.
 */
export type FindingState = 'ok' | 'degraded' | 'missing';

export interface Finding {
  /** Stable, for programs: `cgroup.memory`. */
  readonly id: string;
  readonly title: string;
  readonly state: FindingState;
  /** What was found, in a few words. */
  readonly found: string;
  /** What this means for Carrel. */
  readonly consequence: string;
  /** What to do; absent where nothing is to be done. */
  readonly remedy?: string;
  /** Debian packages that would put it right. */
  readonly packages?: readonly string[];
  /** Carrel cannot run its main job without it. */
  readonly required?: true;
}

export interface ProbeContext {
  readonly root: boolean;
  /** Where the cloud's data is, or would be. */
  readonly data: string;
}

/** One topic: its findings, in the order they are shown. */
export interface Probe {
  readonly topic: string;
  readonly run: (context: ProbeContext) => Promise<readonly Finding[]>;
}
