/** DIR/log/access.log, cut into two files at most: it can never fill the disk. */
import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs';
import { createAccessLog, type AccessLog } from './access-log.ts';

const MAX_BYTES = 32 * 2 ** 20;

export interface AccessLogFile {
  readonly log: AccessLog;
  close(): void;
}

export function openAccessLog(path: string, { maxBytes = MAX_BYTES } = {}): AccessLogFile {
  let fd = openSync(path, 'a', 0o600);
  let size = fstatSync(fd).size;
  const log = createAccessLog((text) => {
    if (size + text.length > maxBytes) {
      closeSync(fd);
      renameSync(path, `${path}.1`);
      fd = openSync(path, 'a', 0o600);
      size = 0;
    }
    // Into the page cache, once a second: no wait worth a callback. A full disk loses lines, not requests.
    try {
      size += writeSync(fd, text);
    } catch {
      size += 0;
    }
  });
  return {
    log,
    close() {
      log.flush();
      closeSync(fd);
    },
  };
}
