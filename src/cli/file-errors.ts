/** What the system says of a file that somebody named on the command line, in a sentence. */
import { CarrelError, errnoOf, type ErrorCode } from '#base/errors.ts';

const sentences: Readonly<
  Record<string, { readonly code: ErrorCode; readonly say: (path: string) => string }>
> = {
  ENOENT: { code: 'not_found', say: (path) => `there is no file ${path}` },
  ENOTDIR: { code: 'not_found', say: (path) => `there is no file ${path}` },
  EACCES: { code: 'forbidden', say: (path) => `${path} may not be opened by this account` },
  EISDIR: { code: 'invalid_request', say: (path) => `${path} is a directory` },
  EEXIST: { code: 'name_taken', say: (path) => `${path} exists already` },
  ENOSPC: { code: 'disk_full', say: (path) => `the disk of ${path} is full` },
};

/** A system error about a path becomes one for people; everything else stays what it is. */
export function explainFileError(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof CarrelError) return error;
  const sentence = sentences[errnoOf(error) ?? ''];
  if (!sentence || !('path' in error) || typeof error.path !== 'string') return error;
  return new CarrelError(sentence.code, sentence.say(error.path), { cause: error });
}
