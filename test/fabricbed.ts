/** A real fabric for one test file, in a namespace of its own, and a stand-in for the world beyond its uplink. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { until } from '#base/deadline.ts';
import { macOf, parseAddress } from '#fabric/addresses.ts';
import { type Fabric, type FabricOptions, type Wire, openFabric } from '#fabric/fabric.ts';
import { type FabricNamespace, openNamespace, processesIn } from '#fabric/namespace.ts';
import { netnsCookie } from '#fabric/netns.ts';
import { openLinks } from '#fabric/netlink/links.ts';
import { launchOk } from '#host/launch.ts';
import { type Netbed, enterNetns, linkNames, makeNetns, netnsLeft } from './netbed.ts';
import { type TapGuest, makeGuest } from './tapguest.ts';

export const root = process.getuid?.() === 0;
export const skip = root ? false : 'needs root';

export interface FabricBed {
  readonly fabric: Fabric;
  readonly directory: string;
  readonly stack: AsyncDisposableStack;
  /** Where `outside` is: 203.0.113.1 and 10.9.9.9 beyond the uplink, which has no route back into the fabric. */
  readonly outside: Netbed;
}

/** The main thread of this test file lives in the fabric until it is over. */
export function useFabric(
  name: string,
  options: FabricOptions,
  prepare: (bed: FabricBed) => Promise<void>,
): () => FabricBed {
  const links = linkNames();
  const directory = mkdtempSync(join(tmpdir(), `${name}-`));
  const stack = new AsyncDisposableStack();
  let namespace: FabricNamespace | undefined;
  let bed: FabricBed | undefined;
  before(async () => {
    if (!root) return;
    namespace = await openNamespace({ runDirectory: directory });
    enterNetns(namespace.holder.pid);
    const fabric = stack.use(await openFabric({ runDirectory: directory, ...options }));
    const outside = stack.use(await makeOutside());
    bed = { fabric, directory, stack, outside };
    await prepare(bed);
  });
  after(async () => {
    if (!namespace) return;
    await stack.disposeAsync();
    const { netns, holder } = namespace;
    const { pid } = holder;
    const cookie = netnsCookie(pid);
    await until(5000, 'the fabric to empty', () =>
      processesIn(netns).every((one) => one === pid || one === process.pid) ? true : undefined,
    );
    await namespace.end();
    rmSync(directory, { recursive: true });
    enterNetns(process.ppid);
    assert.deepEqual(netnsLeft(), []);
    assert.deepEqual(
      processesIn(netns).filter((one) => netnsCookie(one) === cookie),
      [],
    );
    assert.deepEqual(linkNames(), links);
  });
  return () => {
    if (!bed) throw new Error('the fabric is not open');
    return bed;
  };
}

async function makeOutside(): Promise<Netbed> {
  const outside = await makeNetns();
  using links = openLinks();
  await links.createVeth({
    name: 'uplink0',
    master: 0,
    peer: { netns: { pid: outside.pid }, name: 'outside0', mac: '02:00:00:00:00:01' },
  });
  await links.addAddress((await links.find('uplink0'))?.index ?? 0, parseAddress('198.51.100.2'), 24);
  for (const address of ['198.51.100.1/24', '203.0.113.1/32', '10.9.9.9/32', '198.18.0.53/32'])
    await outside.run('ip', 'addr', 'add', address, 'dev', 'outside0');
  await outside.run('ip', 'link', 'set', 'lo', 'up');
  await outside.run('ip', 'link', 'set', 'outside0', 'up');
  await links.addDefaultRoute(parseAddress('198.51.100.1'));
  return outside;
}

/** What the fabric is told of a machine: its id and hardware address follow from its address. */
export function wireOf(address: string, owner: string, network: string): Wire {
  const machineId = `m-${String(parseAddress(address)).padStart(12, '0')}`;
  return { machineId, address, mac: macOf(parseAddress(address)), owner, network };
}

/** A virtual machine's stand-in, plugged and running. */
export async function powerOn(
  { fabric }: FabricBed,
  wire: Wire,
  place: { gateway: string; prefix: number },
): Promise<TapGuest & { link: string }> {
  const guest = await makeGuest({ ...wire, ...place });
  const { fd, link } = await fabric.plugTap(wire);
  await guest.powerOn(fd);
  await until(10_000, `${wire.address} to answer`, async () =>
    (await guest.pings(place.gateway)) ? true : undefined,
  );
  return {
    ...guest,
    link,
    holder: guest.holder,
    [Symbol.asyncDispose]: async () => await guest[Symbol.asyncDispose](),
  };
}

export async function ruleset(): Promise<string> {
  const text = (await launchOk(['nft', 'list', 'ruleset'])).stdout.toString();
  return text.replaceAll(/^\s*elements = \{[^}]*\bct count\b[^}]*\}\n/gm, ''); // they come and go by themselves
}
