/** For tests of the grading sandbox: sandboxes for all of a suite, and scripts in them. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before } from 'node:test';
import { openSandboxes, type SandboxReport, type SandboxSpec, type Sandboxes } from './sandbox.ts';
import { makeBed, type IsolationBed } from './testing.ts';

/** Opened before the first test of the suite, and closed after the last one. */
export interface SandboxBed {
  readonly bed: IsolationBed;
  readonly sandboxes: Sandboxes;
  readonly sh: (script: string, more?: Partial<SandboxSpec>) => Promise<SandboxReport>;
  /** A file on the host; its path. */
  readonly fixture: (name: string, text: string, mode?: number) => string;
}

export function useSandboxes(): SandboxBed {
  let opened: Pick<SandboxBed, 'bed' | 'sandboxes'> | undefined;
  const now = () => {
    if (!opened) throw new Error('the sandboxes are not open');
    return opened;
  };
  before(async () => {
    const bed = await makeBed();
    const sandboxes = await openSandboxes({ server: bed.server, instance: bed.instance, slots: 2 });
    opened = { bed, sandboxes };
  });
  after(async () => {
    await opened?.sandboxes.close();
    await opened?.bed[Symbol.asyncDispose]();
  });
  return {
    get bed() {
      return now().bed;
    },
    get sandboxes() {
      return now().sandboxes;
    },
    sh: (script, more = {}) =>
      now().sandboxes.run({ root: now().bed.root, argv: ['sh', '-c', script], ...more }),
    fixture(name, text, mode = 0o644) {
      const path = join(now().bed.directory, name);
      writeFileSync(path, text);
      chmodSync(path, mode);
      return path;
    },
  };
}
