/** Is there a process in the machine with these properties? */
import { type ProcessIdentity, identify, statOf } from '#host/processes.ts';
import type { ProcessSpec } from '../../format/kinds.ts';
import { type Outcome, failed, passed } from '../../judge/outcome.ts';
import { quote } from '../../judge/text.ts';
import { hostnameOf } from './enter.ts';
import { namespaceOf, processesOf } from './namespaces.ts';

export interface Found {
  readonly outcome: Outcome;
  /** The process, for checks that are about it. */
  readonly process?: ProcessIdentity;
}

const owns = (initPid: number, pid: number, own: ProcessSpec['own'] = []): boolean =>
  own.every((kind) => {
    const its = namespaceOf(pid, kind);
    return its !== undefined && its !== namespaceOf(initPid, kind);
  });

/** Each costs a thread; more is no lab's answer, but an attack on our time. */
const maxUtsNamespaces = 32;

/** Host names by UTS namespace: each is asked once. */
async function withHostname(
  processes: readonly ProcessIdentity[],
  wanted: string,
): Promise<{ match: ProcessIdentity[]; seen: string[] }> {
  const names = new Map<string, string | undefined>();
  const match: ProcessIdentity[] = [];
  for (const process of processes) {
    const uts = namespaceOf(process.pid, 'uts');
    if (uts === undefined) continue;
    if (!names.has(uts) && names.size >= maxUtsNamespaces) break;
    if (!names.has(uts)) names.set(uts, await hostnameOf(process));
    if (names.get(uts) === wanted) match.push(process);
  }
  return { match, seen: [...names.values()].filter((name) => name !== undefined) };
}

const none = (reason: string): Found => ({ outcome: failed(reason) });

/** Looks for a process; the reason names the first property that none has. */
export async function observeProcess(initPid: number, spec: ProcessSpec, reveal: boolean): Promise<Found> {
  let left = processesOf(initPid);
  if (spec.own) {
    for (const kind of spec.own)
      if (!left.some(({ pid }) => owns(initPid, pid, [kind])))
        return none(`no process has its own ${kind} namespace`);
    left = left.filter(({ pid }) => owns(initPid, pid, spec.own));
    if (left.length === 0) return none(`no single process has its own ${spec.own.join(', ')} namespaces`);
  }
  if (spec.comm !== undefined) {
    left = left.filter(({ pid }) => statOf(pid)?.name === spec.comm);
    if (left.length === 0)
      return none(reveal ? `no such process is called ${quote(spec.comm)}` : 'no such process has that name');
  }
  if (spec.hostname !== undefined) {
    const { match, seen } = await withHostname(left, spec.hostname);
    left = match;
    const saw =
      seen.length === 0
        ? ''
        : `, but ${seen
            .slice(0, 3)
            .map((name) => quote(name, 64))
            .join(', ')}`;
    if (left.length === 0)
      return none(
        reveal
          ? `no such process has the host name ${quote(spec.hostname)}${saw}`
          : 'no such process has that host name',
      );
  }
  const process = left.find(({ pid, startTime }) => identify(pid)?.startTime === startTime);
  if (!process) return none('the process ended while it was looked at');
  const properties = [
    ...(spec.own ? [`its own ${spec.own.join(', ')} namespace${spec.own.length > 1 ? 's' : ''}`] : []),
    ...(spec.hostname === undefined ? [] : [`the host name ${quote(spec.hostname)}`]),
  ];
  return {
    outcome: passed(
      properties.length === 0 ? 'there is such a process' : `a process has ${properties.join(' and ')}`,
    ),
    process,
  };
}
