/** All probes, side by side, and what they come to. */
import { messageOf } from '#base/errors.ts';
import { cgroups } from '#host/probe/cgroups.ts';
import type { Finding, FindingState, Probe, ProbeContext } from '#host/probe/finding.ts';
import { mounting } from '#host/probe/mounting.ts';
import { namespaces } from '#host/probe/namespaces.ts';
import { network } from '#host/probe/network.ts';
import { resources } from '#host/probe/resources.ts';
import { security } from '#host/probe/security.ts';
import { tools } from '#host/probe/tools.ts';
import { kvm } from '#kvm/probe.ts';

export const probes: readonly Probe[] = [
  namespaces,
  mounting,
  cgroups,
  security,
  network,
  kvm,
  tools,
  resources,
];

export interface Topic {
  readonly topic: string;
  readonly findings: readonly Finding[];
}

/** A probe that breaks is itself a finding. */
async function runProbe({ topic, run }: Probe, context: ProbeContext): Promise<Topic> {
  try {
    return { topic, findings: await run(context) };
  } catch (error) {
    const finding: Finding = {
      id: `probe.${topic}`,
      title: topic,
      state: 'degraded',
      found: `could not be examined: ${messageOf(error)}`,
      consequence: 'nothing is known about it',
    };
    return { topic, findings: [finding] };
  }
}

export const examine = (context: ProbeContext): Promise<Topic[]> =>
  Promise.all(probes.map((probe) => runProbe(probe, context)));

export interface Summary {
  readonly counts: Readonly<Record<FindingState, number>>;
  /** Nothing is missing that the main job needs. */
  readonly ready: boolean;
  readonly packages: readonly string[];
}

export function summarize(topics: readonly Topic[]): Summary {
  const findings = topics.flatMap((topic) => topic.findings);
  const count = (state: FindingState): number => findings.filter((finding) => finding.state === state).length;
  return {
    counts: { ok: count('ok'), degraded: count('degraded'), missing: count('missing') },
    ready: !findings.some(({ state, required }) => state === 'missing' && required === true),
    packages: [
      ...new Set(findings.filter(({ state }) => state !== 'ok').flatMap(({ packages = [] }) => packages)),
    ].sort(),
  };
}
