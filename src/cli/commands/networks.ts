/** Networks: make, list, look, remove. */
import { CarrelError } from '#base/errors.ts';
import { numbersInWords } from '#base/numbered.ts';
import { networkIsolation, networkLayout, type Network } from '#contract/schemas/networks.ts';
import type { Action } from '../spec.ts';
import type { Output } from '../ui/output.ts';
import { all } from '../waiting.ts';

const yes = (is: boolean): string => (is ? 'yes' : 'no');

const neighbours: Readonly<Record<Network['isolation'], string>> = { owner: 'own machines', open: 'all' };

function renderNetwork(network: Network, out: Output): string {
  const { layout, cidr, gateway, bridge, nat, dhcp, isolation, addresses } = network;
  return [
    `${out.paint('bold', network.name)}  ${layout === 'routed' ? 'a subnet for each machine' : `bridge ${bridge}`}`,
    `id          ${network.id}`,
    layout === 'routed'
      ? `range       machine x (${numbersInWords}) is 192.168.{200+x}.2, its gateway 192.168.{200+x}.1`
      : `range       ${cidr}, gateway ${gateway}`,
    `outside     ${nat ? 'reached through NAT' : 'not reached'}`,
    `names       ${dhcp ? 'DHCP, and NAME.internal by DNS' : 'none'}`,
    `talks to    ${isolation === 'open' ? 'all machines of the network' : 'machines of the same owner'}`,
    `addresses   ${addresses} in use`,
  ].join('\n');
}

export const networkList: Action = async ({ out, connect }) => {
  const { client } = await connect();
  const networks = await all((page) => client.listNetworks({ params: {}, query: page }));
  out.table(
    networks,
    [
      { head: 'NAME', cell: (network) => network.name },
      { head: 'LAYOUT', cell: (network) => network.layout },
      { head: 'RANGE', cell: (network) => network.cidr },
      { head: 'GATEWAY', cell: (network) => network.gateway },
      { head: 'NAT', cell: (network) => yes(network.nat) },
      { head: 'DHCP', cell: (network) => yes(network.dhcp) },
      { head: 'HEARS', cell: (network) => neighbours[network.isolation] },
      { head: 'ADDRESSES', cell: (network) => network.addresses, align: 'right' },
    ],
    'no networks',
  );
  return undefined;
};

export const networkShow: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const network = await client.getNetwork({ params: { network: args.word('network') } });
  out.result(network, () => renderNetwork(network, out));
  return undefined;
};

export const networkNew: Action = async ({ args, out, connect }) => {
  const layout = networkLayout.default('bridge').safeParse(args.option('layout'));
  if (!layout.success)
    throw new CarrelError('invalid_request', '--layout is bridge or routed, not anything else');
  const isolation = networkIsolation.parse(args.flag('open') ? 'open' : 'owner');
  const cidr = args.option('range');
  const { client } = await connect();
  const network = await client.createNetwork({
    params: {},
    body: {
      name: args.word('name'),
      ...(cidr !== undefined && { cidr }),
      nat: args.unless('nat'),
      dhcp: args.unless('dhcp'),
      isolation,
      layout: layout.data,
    },
  });
  out.result(network, () => renderNetwork(network, out));
  return undefined;
};

export const networkRemove: Action = async ({ args, out, connect }) => {
  const { client } = await connect();
  const network = args.word('network');
  await client.deleteNetwork({ params: { network } });
  out.result({ network, removed: true }, () => `${network} is removed.`);
  return undefined;
};
