import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import type { Finding } from '#host/probe/finding.ts';
import { mountsOf } from '#host/mounts.ts';
import { createOutput } from '../ui/output.ts';
import { examine, summarize } from './examine.ts';
import { renderTopics } from './render.ts';

const finding = (id: string, state: Finding['state'], more: Partial<Finding> = {}): Finding => ({
  id,
  title: id,
  state,
  found: 'x',
  consequence: 'y',
  ...more,
});

test('Carrel can run as long as nothing is missing that it needs', () => {
  const base = [
    finding('a', 'ok'),
    finding('b', 'degraded', { packages: ['zstd'] }),
    finding('c', 'missing'),
  ];
  const { counts, ready, packages } = summarize([{ topic: 't', findings: base }]);
  assert.deepEqual(counts, { ok: 1, degraded: 1, missing: 1 });
  assert.equal(ready, true);
  assert.deepEqual(packages, ['zstd']);
  assert.equal(
    summarize([{ topic: 't', findings: [...base, finding('d', 'missing', { required: true })] }]).ready,
    false,
  );
});

const probeFiles = async (): Promise<string[]> =>
  (await readdir(tmpdir())).filter((name) => name.startsWith('carrel-probe-'));

test('this host is examined without leaving a mount, a file or a process', async () => {
  const [mounts, files] = [mountsOf().length, await probeFiles()];
  const topics = await examine({ root: process.getuid?.() === 0, data: '/var/lib/carrel' });
  const findings = topics.flatMap((topic) => topic.findings);
  assert.equal(new Set(findings.map(({ id }) => id)).size, findings.length, 'an id is there twice');
  assert.deepEqual(
    findings.filter(({ id }) => id.startsWith('probe.')),
    [],
  );
  for (const { id, found, consequence } of findings) assert.ok(found !== '' && consequence !== '', id);
  assert.equal(mountsOf().length, mounts);
  assert.deepEqual(await probeFiles(), files);
  assert.match(renderTopics(topics, createOutput()), /namespaces\n {2}[✓✗] mount namespace/);
});
