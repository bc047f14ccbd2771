/**
 * Placing a process in a control group waits for an RCU grace period, 6 to 20 ms, unless another placement
 * happened a moment ago (cgroup_threadgroup_rwsem in kernel/cgroup/cgroup.c; measured: 0.1 ms within some 15 ms
 * of the last one). So while a container's disk is being made, this process is placed where it already is: that
 * changes nothing, and the wait is over when the container comes to be placed. v2 needs none of this, for there
 * a process is born in its group.
 */
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CgroupLayout } from '#isolate/cgroups/layout.ts';

/** Closer together than this they would only queue. */
const apartMs = 5;

/** Gives a function that starts such a placement in the background; failing is no harm. */
export function createWarmer(layout: CgroupLayout): () => void {
  const hierarchy = layout.where.pids;
  const own = /^\d+:(?:[^:]*,)?pids(?:,[^:]*)?:(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1];
  if (hierarchy?.version !== 1 || own === undefined) return () => undefined;
  const file = join(hierarchy.mount, own, 'cgroup.procs');
  let last = Number.NEGATIVE_INFINITY;
  return () => {
    const now = performance.now();
    if (now - last < apartMs) return;
    last = now;
    writeFile(file, String(process.pid)).catch(() => undefined);
  };
}
