/** Overlay and idmapped mounts, tried in a private mount namespace (see mounting-child.ts for the trying). */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { attempt, inNamespaces } from './attempt.ts';
import type { Finding, Probe } from './finding.ts';

const child = fileURLToPath(new URL('mounting-child.ts', import.meta.url));

const verdict = z.strictObject({ ok: z.boolean(), said: z.string() });
const report = z.strictObject({ overlay: verdict, userxattr: verdict, idmapped: verdict });
export type MountingReport = z.infer<typeof report>;

/** The nearest directory above `path` that exists: where its file system will be. */
export function existingAbove(path: string): string {
  let at = path;
  while (!existsSync(at) && dirname(at) !== at) at = dirname(at);
  return at;
}

export function judgeMounting({ overlay, userxattr, idmapped }: MountingReport, root: boolean): Finding[] {
  return [
    {
      id: 'mount.overlay',
      title: 'overlay',
      state: overlay.ok ? 'ok' : 'missing',
      found: overlay.ok ? 'works' : overlay.said,
      consequence: overlay.ok
        ? 'machines share an image and write beside it'
        : 'machines cannot share an image',
      required: true,
      ...(!overlay.ok && { remedy: 'modprobe overlay' }),
    },
    {
      id: 'mount.userxattr',
      title: 'overlay with userxattr',
      state: userxattr.ok ? 'ok' : 'degraded',
      found: userxattr.ok ? 'works' : userxattr.said,
      consequence: userxattr.ok
        ? 'overlays without root remove merged directories'
        : 'labs without root cannot remove merged directories of an overlay in memory; machines are not affected',
      ...(!userxattr.ok && { remedy: 'use Linux 6.6 or newer, where tmpfs has user attributes' }),
    },
    {
      id: 'mount.idmapped',
      title: 'idmapped mounts',
      state: idmapped.ok ? 'ok' : 'degraded',
      found: idmapped.ok ? 'work' : idmapped.said,
      consequence: idmapped.ok
        ? 'an image is shared by containers with different ids'
        : 'each range of ids needs a copy of the image',
      ...(!idmapped.ok && {
        remedy: root
          ? 'keep the cache on ext4, xfs or btrfs, with Linux 5.12 or newer'
          : 'run as root: without root only file systems of one’s own can be idmapped',
      }),
    },
  ];
}

export const mounting: Probe = {
  topic: 'file systems',
  async run({ root, data }) {
    const { ok, said, stdout } = await attempt(
      inNamespaces(
        ['mount'],
        [process.execPath, '--disable-warning=ExperimentalWarning', child, existingAbove(data)],
        root,
      ),
    );
    const failed = { ok: false, said: said || 'the probe failed' };
    const parsed = ok ? report.safeParse(JSON.parse(stdout)) : undefined;
    return judgeMounting(parsed?.data ?? { overlay: failed, userxattr: failed, idmapped: failed }, root);
  },
};
