/** `carrel test`: builds what tests need, runs them, and counts. */
import { mkdirSync, openSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CarrelError, messageOf } from '#base/errors.ts';
import { formatDuration } from '#base/units.ts';
import { launch } from '#host/launch.ts';
import { openImages } from '#images/store.ts';
import { exitCodes } from '../exit-codes.ts';
import type { Action } from '../spec.ts';
import { findTestFiles, isEndToEnd, select } from '../testing/files.ts';
import { runTests } from '../testing/run.ts';
import { lastLine, type Tally } from '../testing/tally.ts';
import type { Output } from '../ui/output.ts';

const root = fileURLToPath(new URL('../../../', import.meta.url)).replace(/\/$/, '');
const slowFiles = 8;

async function buildNative(out: Output): Promise<void> {
  using progress = out.progress();
  progress.update('building the native parts');
  const env = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env['PATH'] ?? ''}` };
  const { status, stderr } = await launch(['make', '-s', '-C', join(root, 'src/native')], {
    env,
    timeoutMs: 300_000,
  });
  if (status !== 0)
    throw new CarrelError(
      'helper_failed',
      `the native parts do not build: ${stderr.toString('utf8').trim()}`,
    );
}

/**
 * Images that tests start machines and sandboxes from: built once, then in the cache, and again when their recipes have
 * changed. Somebody who runs one file alone is not made to wait for that.
 */
async function buildImages(out: Output): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const images = await openImages();
  // minutes of compiling: for who asks
  const kernel = process.env['CARREL_BUILD_KERNEL'] === '1' ? ['linux'] : [];
  for (const name of ['busybox', 'debian-12', 'tiny', 'debian-12-disk', ...kernel]) {
    using progress = out.progress();
    progress.update(`image ${name}`);
    try {
      await images.build(name, {
        onProgress: ({ step, of, what }) => progress.update(`image ${name}: ${what}`, step, of),
      });
    } catch (error) {
      progress.clear();
      out.note(`image ${name} cannot be built, tests that need it fail or are skipped: ${messageOf(error)}`);
    }
  }
}

function render({ failures, skips, slowest, ...counts }: Tally, out: Output, ms: number): string {
  const lines: string[] = [];
  if (failures.length > 0) lines.push('', out.paint('bold', 'Failures'));
  for (const { file, name, message } of failures)
    lines.push(
      `${out.paint('red', '✗')} ${file}: ${name}`,
      ...message
        .split('\n')
        .slice(0, 30)
        .map((line) => `    ${line}`),
    );
  if (skips.size > 0) lines.push('', out.paint('bold', 'Skipped'));
  for (const [reason, names] of skips) {
    lines.push(`${names.length} because: ${reason}`, ...names.slice(0, 5).map((name) => `    ${name}`));
    if (names.length > 5) lines.push(`    and ${names.length - 5} more`);
  }
  lines.push('', out.paint('bold', `Slowest of the files (all: ${formatDuration(ms)})`));
  for (const [file, time] of slowest.slice(0, slowFiles))
    lines.push(`${formatDuration(time).padStart(10)}  ${file}`);
  lines.push('', lastLine(counts));
  return lines.join('\n');
}

export const test: Action = async ({ args, out }) => {
  const began = performance.now();
  const concurrency = args.number('jobs') ?? 2;
  if (!Number.isInteger(concurrency) || concurrency < 1)
    throw new CarrelError('invalid_request', '--jobs wants a whole number above 0');
  const files = select(await findTestFiles(root), {
    filters: args.words('paths'),
    onlyUnit: args.flag('onlyUnit'),
  });
  if (files.length === 0) throw new CarrelError('not_found', 'no test file has that in its path');
  await buildNative(out);
  await buildImages(out);

  mkdirSync(join(root, 'build'), { recursive: true });
  const log = openSync(join(root, 'build', 'test.log'), 'w');
  using progress = out.progress();
  const options = {
    root,
    onFailure: ({ file, name }: { file: string; name: string }): void => {
      progress.clear();
      out.note(`${out.paint('red', '✗')} ${file}: ${name}`);
    },
    onOutput: (text: string): void => void writeSync(log, text),
  };
  const unit = files.filter((file) => !isEndToEnd(file));
  const endToEnd = files.filter(isEndToEnd);
  const first = await runTests({
    ...options,
    files: unit,
    concurrency,
    onFile: (done, file) => progress.update(`tests: ${file}`, done, files.length),
  });
  // clouds one after the other: each compares what it leaves on the host with what was there before
  const second = await runTests({
    ...options,
    files: endToEnd,
    concurrency: 1,
    onFile: (done, file) => progress.update(`tests: ${file}`, unit.length + done, files.length),
  });
  progress.clear();
  const tally: Tally = {
    passed: first.passed + second.passed,
    failed: first.failed + second.failed,
    skipped: first.skipped + second.skipped,
    failures: [...first.failures, ...second.failures],
    skips: new Map([...first.skips, ...second.skips]),
    slowest: [...first.slowest, ...second.slowest].sort(([, a], [, b]) => b - a),
  };
  out.result({ ...tally, skips: Object.fromEntries(tally.skips) }, () =>
    render(tally, out, performance.now() - began),
  );
  return tally.failed > 0 ? exitCodes.failed : undefined;
};
