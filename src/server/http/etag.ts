/** Entity tags (RFC 9110, 8.8.3 and 13.1): strong ones only. */
import { CarrelError } from '#base/errors.ts';

export function quoteEtag(version: string | number): string {
  return `"${version}"`;
}

/** Does a header value (a list of tags, or `*`) name this version? Weak tags never match for writes. */
export function namesEtag(header: string, version: string | number): boolean {
  const wanted = quoteEtag(version);
  return header
    .split(',')
    .map((tag) => tag.trim())
    .some((tag) => tag === '*' || tag === wanted);
}

/**
 * Refuses a write if the caller saw another version. Call it in the transaction that writes, with the row
 * locked. Without If-Match every version is right.
 */
export function requireMatch(ifMatch: string | undefined, version: string | number, what: string): void {
  if (ifMatch === undefined || namesEtag(ifMatch, version)) return;
  throw new CarrelError('etag_mismatch', `${what} has been changed since you read it`, {
    hint: 'read it again, and repeat the change with the new ETag',
    details: { etag: quoteEtag(version) },
  });
}
