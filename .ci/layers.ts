/** The floors of the house and what each may import; docs/architecture.md says why. Imports point down only. */

/** Floor -> floors it may import. What a floor may import is not inherited: it is written out. */
export const layers: Readonly<Record<string, readonly string[]>> = {
  base: [],
  contract: ['base'],
  host: ['base'],
  kvm: ['base', 'host'],
  vmm: ['base', 'host', 'kvm'],
  isolate: ['base', 'host'],
  fabric: ['base', 'host', 'isolate'],
  images: ['base', 'host', 'isolate'],
  store: ['base', 'contract', 'host'],
  jobs: ['base', 'contract', 'host', 'store'],
  machines: ['base', 'contract', 'host', 'kvm', 'isolate', 'fabric', 'images', 'store', 'jobs', 'vmm'],
  grading: [
    'base',
    'contract',
    'host',
    'kvm',
    'vmm',
    'isolate',
    'fabric',
    'images',
    'store',
    'jobs',
    'machines',
  ],
  classroom: ['base', 'contract', 'host', 'images', 'store', 'jobs', 'machines', 'grading'],
  server: [
    'base',
    'contract',
    'host',
    'isolate',
    'fabric',
    'images',
    'store',
    'jobs',
    'machines',
    'grading',
    'classroom',
  ],
  cli: ['base', 'contract', 'host', 'kvm', 'vmm', 'isolate', 'fabric', 'images', 'store', 'grading'],
};

export interface Import {
  readonly from: string;
  readonly to: string;
}

/** `src/FLOOR/...` -> FLOOR; undefined outside of src. */
export function floorOf(path: string): string | undefined {
  return /^src\/([^/]+)\//.exec(path)?.[1];
}

/** Static and dynamic imports and re-exports of a source text, as written. */
export function importsOf(text: string): string[] {
  const pattern =
    /(?:^|\n)\s*(?:import|export)\s(?:[^'"`;]*?\sfrom\s)?\s*'([^'\n]+)'|\bimport\(\s*'([^'\n]+)'\s*\)/g;
  return [...text.matchAll(pattern)].map((match) => match[1] ?? match[2] ?? '');
}

/** What is wrong with an import between two files, or undefined. Tests may use the harness in test/. */
export function complaint(
  { from, to }: Import,
  table: Readonly<Record<string, readonly string[]>> = layers,
): string | undefined {
  const isTest =
    /(?:\.test|\/testing(?:-\w+)?)\.ts$/.test(from) || from.startsWith('test/') || from.startsWith('bench/');
  const [source, target] = [floorOf(from), floorOf(to)];
  if (source === undefined) return undefined;
  if (target === undefined) {
    const allowed = isTest && to.startsWith('test/');
    return allowed || !/^(?:test|bench)\//.test(to)
      ? undefined
      : `${from} imports ${to}: tests and benches are no part of the product`;
  }
  if (source === target) return undefined;
  const allowed = table[source];
  if (!allowed) return `${from}: src/${source} is no floor; add it to .ci/layers.ts and docs/architecture.md`;
  return allowed.includes(target) ? undefined : `${from} imports ${to}: ${source} may not import ${target}`;
}

/** Cycles among files, each as the list of files it goes through. */
export function cycles(imports: readonly Import[]): string[][] {
  const graph = new Map<string, string[]>();
  for (const { from, to } of imports) graph.set(from, [...(graph.get(from) ?? []), to]);
  const found: string[][] = [];
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): void => {
    const at = path.indexOf(file);
    if (at >= 0) {
      found.push([...path.slice(at), file]);
      return;
    }
    if (done.has(file)) return;
    path.push(file);
    for (const next of graph.get(file) ?? []) visit(next);
    path.pop();
    done.add(file);
  };
  for (const file of graph.keys()) visit(file);
  return found;
}
