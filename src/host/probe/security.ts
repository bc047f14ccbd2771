/** What keeps a submission in its place beside namespaces (seccomp(2), ptrace(2)). */
import { readFile } from 'node:fs/promises';
import type { Finding, Probe } from './finding.ts';

const needed = ['kill_process', 'errno', 'allow'];

/** /proc/sys/kernel/seccomp/actions_avail; undefined where the kernel has no filters. */
export function judgeSeccomp(actions: string | undefined): Finding {
  const base = { id: 'security.seccomp', title: 'seccomp filters', required: true } as const;
  const lacking = needed.filter((action) => !(actions ?? '').split(/\s+/).includes(action));
  return lacking.length === 0
    ? {
        ...base,
        state: 'ok',
        found: 'kill_process and errno',
        consequence: 'dangerous system calls are closed to submissions',
      }
    : {
        ...base,
        state: 'missing',
        found: actions === undefined ? 'not in this kernel' : `no ${lacking.join(', ')}`,
        consequence: 'submissions cannot be graded safely',
        remedy: 'use a kernel with CONFIG_SECCOMP_FILTER',
      };
}

/** kernel.yama.ptrace_scope; undefined where Yama is not built in. */
export function judgePtrace(scope: string | undefined): Finding {
  const base = { id: 'security.ptrace', title: 'ptrace' };
  const value = Number(scope?.trim() ?? 0);
  if (value >= 2)
    return {
      ...base,
      state: 'degraded',
      found: `kernel.yama.ptrace_scope is ${value}`,
      consequence: 'strace and gdb do not work in machines',
      remedy: 'sysctl -w kernel.yama.ptrace_scope=1',
    };
  return {
    ...base,
    state: 'ok',
    found: value === 1 ? 'of one’s own children' : 'of one’s own processes',
    consequence: 'strace and gdb work in machines',
  };
}

const read = (path: string): Promise<string | undefined> => readFile(path, 'utf8').catch(() => undefined);

export const security: Probe = {
  topic: 'security',
  run: async () => [
    judgeSeccomp(await read('/proc/sys/kernel/seccomp/actions_avail')),
    judgePtrace(await read('/proc/sys/kernel/yama/ptrace_scope')),
  ],
};
