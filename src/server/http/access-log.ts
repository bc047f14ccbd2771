/** One line per request, written in batches: who, what, how it went, how long. Never a query, never a token. */

export interface AccessEntry {
  readonly method: string;
  /** The route's pattern, not the path: names and ids stay out of the log, and lines can be counted. */
  readonly route: string;
  readonly status: number;
  readonly ms: number;
  readonly user: string;
  readonly requestId: string;
}

export type AccessLog = (line: string) => void;

/** Hand-made JSON: every field is ours or has been checked, and this runs for each request. */
export function accessLine({ method, route, status, ms, user, requestId }: AccessEntry): string {
  const verb = /^[A-Z]{1,10}$/.test(method) ? method : 'OTHER';
  return `{"at":"${new Date().toISOString()}","method":"${verb}","route":"${route}","status":${status},"ms":${ms.toFixed(1)},"user":"${user}","requestId":"${requestId}"}\n`;
}

/**
 * Collects lines and writes them at most once a second, or sooner when there are many. Nothing is scheduled
 * while nothing happens.
 */
export function createAccessLog(write: (text: string) => void): AccessLog & { flush(): void } {
  let lines: string[] = [];
  let timer: NodeJS.Timeout | undefined;
  const flush = (): void => {
    clearTimeout(timer);
    timer = undefined;
    if (lines.length === 0) return;
    const text = lines.join('');
    lines = [];
    write(text);
  };
  const add = (line: string): void => {
    lines.push(line);
    if (lines.length >= 500) flush();
    else timer ??= setTimeout(flush, 1000).unref();
  };
  return Object.assign(add, { flush });
}
