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

/** What is ours, and node. Read-only. */
export function ownInside(): Seen[] {
  return [
    { host: realpathSync(process.execPath), guest: `${home}/node` },
    ...['src', 'build', 'node_modules', 'package.json'].map((name) => ({
      host: realpathSync(`${repository}${name}`),
      guest: `${home}/${name}`,
    })),
  ];
}

/** The same, and the host's libraries. Without merged /usr some of them are in directories of their own. */
export function seenInside(): Seen[] {
  const libraries = ['/usr', '/lib', '/lib64'].filter((path) => existsSync(path));
  return [...libraries.map((path) => ({ host: realpathSync(path), guest: path })), ...ownInside()];
}

/** The command for an order that lies at this path inside. */
export const machineCommand = (order: string): readonly string[] => [
  `${home}/node`,
  '--disable-warning=ExperimentalWarning',
  `${home}/src/vmm/apart/program.ts`,
  order,
];
