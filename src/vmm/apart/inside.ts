/** What the process of a machine needs to see of the host: node, its libraries, and the part of us that it runs. */
import { existsSync, realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** A file or directory of the host, and where the process sees it. */
export interface Seen {
  readonly host: string;
  readonly guest: string;
}

const repository = fileURLToPath(new URL('../../../', import.meta.url));
const home = '/carrel';

/** Read-only, all of it. Without merged /usr some of the libraries are in directories of their own. */
export function seenInside(): Seen[] {
  const libraries = ['/usr', '/lib', '/lib64'].filter((path) => existsSync(path));
  const ours = ['src', 'build', 'node_modules', 'package.json'];
  return [
    ...libraries.map((path) => ({ host: realpathSync(path), guest: path })),
    { host: realpathSync(process.execPath), guest: `${home}/node` },
    ...ours.map((name) => ({ host: realpathSync(`${repository}${name}`), guest: `${home}/${name}` })),
  ];
}

/** The command for an order that lies at this path inside. */
export const machineCommand = (order: string): readonly string[] => [
  `${home}/node`,
  '--disable-warning=ExperimentalWarning',
  `${home}/src/vmm/apart/program.ts`,
  order,
];
