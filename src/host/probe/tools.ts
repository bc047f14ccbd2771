/** Programs that Carrel uses, by the file that proves them (the table debian-packages), and their versions. */
import { access, constants, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { attempt } from './attempt.ts';
import type { Finding, Probe } from './finding.ts';

export interface PackageLine {
  readonly name: string;
  readonly proof: string;
  readonly reason: string;
}

/** Lines `package path reason`; `#` begins a comment. */
export function parsePackages(text: string): PackageLine[] {
  return text.split('\n').flatMap((line) => {
    const [, name, proof, reason] = /^([^\s#]\S*)\s+(\S+)\s+(.+)$/.exec(line) ?? [];
    return name === undefined || proof === undefined || reason === undefined
      ? []
      : [{ name, proof, reason: reason.trim() }];
  });
}

const table = fileURLToPath(new URL('../../../debian-packages', import.meta.url));

/** Without these the main job does not run; the others cost a part of it. */
const needed = new Set(['postgresql-15', 'iproute2', 'nftables', 'util-linux', 'gcc', 'libc6-dev', 'make']);

/** What goes without the rest. */
const losses: Readonly<Record<string, string>> = {
  passt: 'machines reach each other, not the outside',
  'busybox-static': 'no busybox image',
  mmdebstrap: 'the Debian image cannot be built (it can be imported)',
  e2fsprogs: 'no sized disks for machines',
  uidmap: 'containers without root have one user only',
  zstd: 'no .tar.zst images',
};

async function probePackage({ name, proof, reason }: PackageLine): Promise<Finding> {
  const there = await access(proof, constants.F_OK).then(
    () => true,
    () => false,
  );
  const required = needed.has(name);
  return {
    id: `tool.${name}`,
    title: name,
    state: there ? 'ok' : required ? 'missing' : 'degraded',
    found: there ? proof : 'not installed',
    consequence: there
      ? reason
      : required
        ? `nothing that ${reason}`
        : (losses[name] ?? `nothing that ${reason}`),
    ...(!there && { remedy: `install ${name}`, packages: [name] }),
    ...(required && { required: true as const }),
  };
}

async function probeQemu(): Promise<Finding> {
  const { ok, stdout } = await attempt(['qemu-system-x86_64', '--version']);
  return {
    id: 'tool.qemu',
    title: 'qemu',
    state: ok ? 'ok' : 'degraded',
    found: ok ? (/version (\S+)/.exec(stdout)?.[1] ?? 'there') : 'not installed',
    consequence: ok ? 'virtual machines can be run' : 'containers only',
    ...(!ok && { remedy: 'install qemu-system-x86 when you want virtual machines' }),
  };
}

export const tools: Probe = {
  topic: 'programs',
  run: async () => [
    ...(await Promise.all(parsePackages(await readFile(table, 'utf8')).map(probePackage))),
    await probeQemu(),
  ],
};
