/**
 * A run of /bin/true in the sandbox, from the warm server, against `unshare` (all namespaces, chroot) and
 * `bwrap --unshare-all`: interleaved, all started by the same fork server, so that only the isolation differs.
 *
 *   node bench/sandbox.ts [--rounds N] [--json]
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openSandboxes } from '#isolate/sandbox.ts';
import { op } from '#isolate/plan.ts';
import { startForkServer } from '#isolate/server.ts';
import { makeRoot } from '#isolate/testing.ts';
import { interleave, report } from './measure.ts';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '60' }, json: { type: 'boolean', default: false } },
});
const rounds = Number(values.rounds);

const directory = mkdtempSync(join(tmpdir(), 'carrel-bench-sandbox-'));
const root = makeRoot(directory);
const server = await startForkServer({ socket: join(directory, 'isolate.sock') });
const sandboxes = await openSandboxes({ server, instance: 'be7c4000', slots: 1 });
const session = await server.openSession();

/** The peer as a plain child of the same server: no namespaces of ours. */
const plain = async (...argv: readonly string[]): Promise<void> => {
  const { report, stderr } = await session.run([
    op.stdio(0, 'null'),
    op.stdio(1, 'pipe'),
    op.stdio(2, 'pipe'),
    op.env('PATH', '/usr/bin:/bin'),
    ...argv.map(op.arg),
  ]);
  if (report.exit !== 0) throw new Error(`${argv.join(' ')}: ${stderr.toString()}`);
};

const contestants = {
  'carrel sandbox': async () => {
    const { end } = await sandboxes.run({ root, argv: ['/bin/true'] });
    if (end.kind !== 'exited' || end.status !== 0) throw new Error(JSON.stringify(end));
  },
  'unshare, all namespaces': () =>
    plain(
      'unshare',
      '--user',
      '--map-root-user',
      '--pid',
      '--fork',
      '--mount-proc',
      '--mount',
      '--uts',
      '--ipc',
      '--net',
      '--cgroup',
      '--root',
      root,
      '/bin/true',
    ),
  'bwrap --unshare-all': () =>
    plain(
      'bwrap',
      '--unshare-all',
      '--ro-bind',
      root,
      '/',
      '--proc',
      '/proc',
      '--dev',
      '/dev',
      '--tmpfs',
      '/tmp',
      '/bin/true',
    ),
  'fork and exec only': () => plain(join(root, 'bin/true')),
};

try {
  const timings = await interleave(
    Object.entries(contestants).map(([name, run]) => ({ name, run })),
    { rounds },
  );
  const ours = timings[0]?.p50 ?? Number.NaN;
  report(
    `sandbox: /bin/true, ${rounds} rounds interleaved`,
    timings.map(({ name, min, p50, p95 }) => ({
      name,
      'min ms': min,
      'p50 ms': p50,
      'p95 ms': p95,
      'carrel is': `${(ours / p50).toFixed(2)}x`,
    })),
  );
} finally {
  session.close();
  await sandboxes.close();
  await server.close();
  rmSync(directory, { recursive: true });
}
