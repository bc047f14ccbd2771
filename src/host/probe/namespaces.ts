/** Namespaces and the limits on user namespaces (namespaces(7), user_namespaces(7)). */
import { readFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { attempt, inNamespaces, type Namespace } from './attempt.ts';
import type { Finding, Probe, ProbeContext } from './finding.ts';

const kinds: readonly { kind: Namespace; consequence: string; required?: true }[] = [
  { kind: 'mount', consequence: 'own root file systems', required: true },
  {
    kind: 'pid',
    consequence: 'own process numbers; the whole tree ends with its first process',
    required: true,
  },
  { kind: 'uts', consequence: 'own host names', required: true },
  { kind: 'ipc', consequence: 'own message queues and shared memory', required: true },
  { kind: 'net', consequence: 'the fabric, and a network for each machine', required: true },
  { kind: 'user', consequence: 'root inside that is nobody outside', required: true },
  { kind: 'cgroup', consequence: 'a machine sees its own limits only' },
  { kind: 'time', consequence: 'labs on clocks' },
];

async function probeKind(
  { kind, consequence, required }: (typeof kinds)[number],
  root: boolean,
): Promise<Finding> {
  const { ok, said } = await attempt(inNamespaces([kind], ['true'], root));
  return {
    id: `namespace.${kind}`,
    title: `${kind} namespace`,
    state: ok ? 'ok' : 'missing',
    found: ok ? (root || kind === 'user' ? 'works' : 'works, in a user namespace') : said,
    consequence: ok ? consequence : `no ${consequence}`,
    ...(!ok && {
      remedy: root ? 'use a kernel with this namespace' : 'run as root, or allow user namespaces',
    }),
    ...(required && { required }),
  };
}

export interface UserNamespaceLimits {
  /** user.max_user_namespaces; null where there is no such file. */
  readonly max: number | null;
  /** kernel.unprivileged_userns_clone (Debian); null elsewhere. */
  readonly unprivileged: number | null;
  /** kernel.apparmor_restrict_unprivileged_userns (Ubuntu); null elsewhere. */
  readonly apparmor: number | null;
}

/** What the limits mean: pure, so that it can be tried without such a kernel. */
export function judgeLimits({ max, unprivileged, apparmor }: UserNamespaceLimits): Finding {
  const base = { id: 'namespace.user-limits', title: 'user namespace limits' };
  const consequence = 'machines have a root of their own; the number limits how many at a time';
  if (max === 0)
    return {
      ...base,
      state: 'missing',
      required: true,
      found: 'user.max_user_namespaces is 0',
      consequence: 'no user namespace can be made',
      remedy: 'sysctl -w user.max_user_namespaces=15000',
    };
  if (unprivileged === 0)
    return {
      ...base,
      state: 'degraded',
      found: 'kernel.unprivileged_userns_clone is 0',
      consequence: 'only root can make them: Carrel does not run without root',
      remedy: 'sysctl -w kernel.unprivileged_userns_clone=1',
    };
  if (apparmor === 1)
    return {
      ...base,
      state: 'degraded',
      found: 'AppArmor restricts unprivileged ones',
      consequence: 'Carrel does not run without root',
      remedy: 'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0',
    };
  if (max !== null && max < 1000)
    return {
      ...base,
      state: 'degraded',
      found: `at most ${max}`,
      consequence,
      remedy: 'sysctl -w user.max_user_namespaces=15000',
    };
  return { ...base, state: 'ok', found: max === null ? 'no limit' : `at most ${max}`, consequence };
}

async function sysctl(path: string): Promise<number | null> {
  const text = await readFile(`/proc/sys/${path}`, 'utf8').catch(() => undefined);
  return text === undefined ? null : Number(text.trim());
}

/** Ids a user may map (subuid(5)): lines `name-or-uid:first:count`. The largest count, 0 if there is none. */
export function subordinateIds(text: string, name: string, uid: number): number {
  const counts = text
    .split('\n')
    .map((line) => line.trim().split(':'))
    .filter(([owner]) => owner === name || owner === String(uid))
    .map(([, , count]) => Number(count))
    .filter(Number.isFinite);
  return Math.max(0, ...counts);
}

async function probeIds({ root }: ProbeContext): Promise<Finding> {
  const { username, uid } = userInfo();
  const count = subordinateIds(await readFile('/etc/subuid', 'utf8').catch(() => ''), username, uid);
  const base = { id: 'namespace.ids', title: 'subordinate ids' };
  const consequence = 'containers without root have more than one user';
  if (root)
    return {
      ...base,
      state: 'ok',
      found: 'root maps any range',
      consequence: 'every container has its own range of ids',
    };
  return count >= 65_536
    ? { ...base, state: 'ok', found: `${count} for ${username}`, consequence }
    : {
        ...base,
        state: 'degraded',
        found: count === 0 ? `none for ${username}` : `${count} for ${username}`,
        consequence: 'containers without root have one user only',
        remedy: `as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ${username}`,
      };
}

export const namespaces: Probe = {
  topic: 'namespaces',
  run: async (context) => [
    ...(await Promise.all(kinds.map((kind) => probeKind(kind, context.root)))),
    judgeLimits({
      max: await sysctl('user/max_user_namespaces'),
      unprivileged: await sysctl('kernel/unprivileged_userns_clone'),
      apparmor: await sysctl('kernel/apparmor_restrict_unprivileged_userns'),
    }),
    await probeIds(context),
  ],
};
