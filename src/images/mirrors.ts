/**
 * The host's own Debian mirrors: an image is built from where the host gets its packages, whatever that is
 * (sources.list(5), both the one-line and the deb822 style).
 */
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { CarrelError, errnoOf } from '#base/errors.ts';

export interface AptSource {
  readonly uri: string;
  readonly suite: string;
  readonly components: readonly string[];
  /** A key file on the host; undefined: the host's trusted keys. */
  readonly signedBy: string | undefined;
}

/** `deb [signed-by=KEY] URI SUITE COMPONENT...`, one per line. */
export function parseOneLineSources(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const line of text.split('\n')) {
    const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)/.exec(line);
    const [, options = '', uri, suite, components] = match ?? [];
    if (uri === undefined || suite === undefined || components === undefined) continue;
    sources.push({
      uri,
      suite,
      components: components.trim().split(/\s+/),
      signedBy: /(?:^|\s)signed-by=(\S+)/i.exec(options)?.[1],
    });
  }
  return sources;
}

/** Stanzas of `Field: value` with continuation lines (deb822(5)). */
export function parseDeb822Sources(text: string): AptSource[] {
  const sources: AptSource[] = [];
  for (const stanza of text.replaceAll(/^#.*\n?/gm, '').split(/\n\s*\n/)) {
    const fields = new Map<string, string>();
    for (const [, name, value] of stanza.matchAll(/^([A-Za-z0-9-]+):[ \t]*((?:.*)(?:\n[ \t]+.*)*)/gm))
      if (name !== undefined && value !== undefined) fields.set(name.toLowerCase(), value.trim());
    const words = (name: string): string[] => (fields.get(name) ?? '').split(/\s+/).filter(Boolean);
    if (!words('types').includes('deb') || fields.get('enabled')?.toLowerCase() === 'no') continue;
    const [signedBy] = words('signed-by');
    for (const uri of words('uris'))
      for (const suite of words('suites'))
        sources.push({
          uri,
          suite,
          components: words('components'),
          // A key written out in the stanza has no file that could be named.
          signedBy: signedBy?.startsWith('/') === true ? signedBy : undefined,
        });
  }
  return sources;
}

async function textOf(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return '';
    throw error;
  }
}

/** All sources of this host. */
export async function hostSources({ etc = '/etc/apt' }: { etc?: string } = {}): Promise<AptSource[]> {
  const sources = parseOneLineSources(await textOf(join(etc, 'sources.list')));
  let names: string[] = [];
  try {
    names = (await readdir(join(etc, 'sources.list.d'))).sort();
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
  for (const name of names) {
    const text = await textOf(join(etc, 'sources.list.d', name));
    if (name.endsWith('.list')) sources.push(...parseOneLineSources(text));
    if (name.endsWith('.sources')) sources.push(...parseDeb822Sources(text));
  }
  return sources;
}

/** Debian's own archive, not a vendor's repository that has a suite of the same name. */
function isDebian({ uri, signedBy }: AptSource): boolean {
  return (
    /^https?:\/\//.test(uri) &&
    /\/debian(-security)?\/?$/.test(uri) &&
    (signedBy === undefined || signedBy.includes('debian-archive'))
  );
}

/** The name without the pockets of updates and security fixes. */
function release(suite: string): string {
  return suite.replace(/[-/](updates|security)$/, '');
}

/**
 * The mirrors for a Debian suite, as the host has them. A host of another Debian release lends its mirror
 * with the suite's name exchanged.
 */
export function mirrorsFor(
  sources: readonly AptSource[],
  { suite, components }: { suite: string; components: readonly string[] },
): AptSource[] {
  const debian = sources.filter(isDebian);
  const own = debian.filter((source) => release(source.suite) === suite);
  const first = debian.find((source) => release(source.suite) === source.suite);
  const lent = first === undefined ? [] : [{ ...first, suite }];
  const chosen: AptSource[] = [];
  for (const source of own.some((each) => each.suite === suite) ? own : lent) {
    const common = components.filter((each) => source.components.includes(each));
    if (common.length > 0) chosen.push({ ...source, components: common });
  }
  if (chosen.length === 0)
    throw new CarrelError('host_unsupported', `This host's apt has no Debian mirror for ${suite}`, {
      hint: 'add one to /etc/apt/sources.list.d, or import an image made elsewhere: carrel image import',
    });
  return chosen;
}

/** One line of sources.list. `inImage`: for use inside: without the host's key file and without a password. */
export function sourceLine(
  { uri, suite, components, signedBy }: AptSource,
  { inImage = false } = {},
): string {
  const key = signedBy === undefined || inImage ? '' : `[signed-by=${signedBy}] `;
  const address = inImage ? uri.replace(/^(https?:\/\/)[^/@]*@/, '$1') : uri;
  return `deb ${key}${address} ${suite} ${components.join(' ')}`;
}
