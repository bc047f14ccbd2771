/** What the fabric is made of, tried in a network namespace of its own. */
import { access, constants } from 'node:fs/promises';
import { attempt, inNamespaces } from './attempt.ts';
import type { Finding, Probe } from './finding.ts';

interface Trial {
  readonly id: string;
  readonly title: string;
  readonly argv: readonly string[];
  /** The kernel module that provides it. */
  readonly module: string;
  readonly input?: string;
  readonly consequence: string;
  readonly without: string;
  readonly packages: readonly string[];
  readonly required?: true;
}

const link = (type: string, ...more: string[]): string[] => [
  'ip',
  'link',
  'add',
  'probe0',
  'type',
  type,
  ...more,
];

function remedyFor(said: string, module: string): string {
  if (/Permission denied|not permitted/i.test(said)) return 'run as root';
  return `modprobe ${module}`;
}

/** One nft script: a masquerade and a filter on a bridge, the two things the fabric needs. */
const ruleset = `table ip probe {
  chain out { type nat hook postrouting priority 100; oifname "eth0" masquerade; }
}
table bridge probe {
  chain pass { type filter hook forward priority 0; ether type arp accept; }
}
`;

const trials: readonly Trial[] = [
  {
    id: 'network.bridge',
    title: 'bridge',
    module: 'bridge',
    argv: link('bridge'),
    consequence: 'machines share a network',
    without: 'no network for machines',
    packages: ['iproute2'],
    required: true,
  },
  {
    id: 'network.veth',
    title: 'veth pairs',
    module: 'veth',
    argv: link('veth', 'peer', 'name', 'probe1'),
    consequence: 'each machine has a wire',
    without: 'no network for machines',
    packages: ['iproute2'],
    required: true,
  },
  {
    id: 'network.nftables',
    title: 'nftables',
    module: 'nf_tables',
    argv: ['nft', '-f', '-'],
    input: ruleset,
    consequence: 'address translation, and machines kept apart',
    without: 'machines cannot be kept apart',
    packages: ['nftables'],
    required: true,
  },
  {
    id: 'network.tun',
    title: 'tun and tap',
    module: 'tun',
    argv: ['ip', 'tuntap', 'add', 'dev', 'probe0', 'mode', 'tap'],
    consequence: 'networks for virtual machines, and the way out',
    without: 'no way out, and no network for virtual machines',
    packages: ['iproute2'],
  },
];

async function probeTrial(
  { id, title, module, argv, input, consequence, without, packages, required }: Trial,
  root: boolean,
): Promise<Finding> {
  const { ok, said } = await attempt(inNamespaces(['net'], argv, root), input === undefined ? {} : { input });
  const absent = /No such file|not found|could not be started/.test(said) && !/dev\/net\/tun/.test(said);
  return {
    id,
    title,
    state: ok ? 'ok' : required ? 'missing' : 'degraded',
    found: ok ? 'works' : said,
    consequence: ok ? consequence : without,
    ...(!ok &&
      (absent
        ? { remedy: `install ${packages.join(', ')}`, packages }
        : { remedy: remedyFor(said, module) })),
    ...(required && { required }),
  };
}

async function probeTunFile(): Promise<Finding> {
  const usable = await access('/dev/net/tun', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  return {
    id: 'network.tun-device',
    title: '/dev/net/tun',
    state: usable ? 'ok' : 'degraded',
    found: usable ? 'may be opened' : 'may not be opened',
    consequence: usable ? 'pasta gives machines a way out' : 'machines reach each other, not the outside',
    ...(!usable && { remedy: 'as root: chmod 666 /dev/net/tun, as distributions do' }),
  };
}

export const network: Probe = {
  topic: 'network',
  run: async ({ root }) => [
    ...(await Promise.all(trials.map((trial) => probeTrial(trial, root)))),
    await probeTunFile(),
  ],
};
