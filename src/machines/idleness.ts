/** Who is idle, judged by figures and by what is asked of them. Kept in memory by the process that people talk to. */

/** Less than this is rest: a kernel's clock ticks and a system's timers go on also when nothing is done. */
const quietCpu = 0.03;
/** The same of bytes per second on the wire: neighbours ask for addresses. */
const quietBytesPerSecond = 200;
/** How machines pass their time. */
export interface Idleness {
  /** Something is wanted of the machine now. */
  touch(id: string): void;
  /** Until this is let go of, the machine is at work, even if it waits. */
  atWork(id: string): Disposable;
  isAtWork(id: string): boolean;
  /** Takes figures in; gives for how many ms it has been quiet. */
  observe(id: string, figures: Figures, now: number): number;
  forget(id: string): void;
  ids(): string[];
}

export interface Figures {
  readonly cpuMs: number;
  readonly bytes: number;
}

interface Seen {
  readonly at: number;
  readonly figures: Figures;
  quietSince: number;
}

export function createIdleness(): Idleness {
  const seen = new Map<string, Seen>();
  const working = new Map<string, number>();
  const touch = (id: string): void => {
    const one = seen.get(id);
    if (one) one.quietSince = performance.now();
  };
  return {
    touch,
    atWork(id) {
      working.set(id, (working.get(id) ?? 0) + 1);
      return {
        [Symbol.dispose]() {
          const left = (working.get(id) ?? 1) - 1;
          if (left > 0) working.set(id, left);
          else working.delete(id);
          touch(id);
        },
      };
    },
    isAtWork: (id) => working.has(id),
    observe(id, figures, now) {
      const before = seen.get(id);
      const seconds = before ? (now - before.at) / 1000 : 0;
      const cpu = before ? (figures.cpuMs - before.figures.cpuMs) / 1000 : 0;
      const bytes = before ? figures.bytes - before.figures.bytes : 0;
      const quiet =
        before !== undefined &&
        !working.has(id) &&
        cpu >= 0 && // else it was started anew
        cpu <= quietCpu * seconds &&
        bytes <= quietBytesPerSecond * seconds;
      const quietSince = quiet ? before.quietSince : now;
      seen.set(id, { at: now, figures, quietSince });
      return now - quietSince;
    },
    forget: (id) => void seen.delete(id),
    ids: () => [...seen.keys()],
  };
}
