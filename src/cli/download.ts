/**
 * A file by its address, for `image import`: http and https, with a limit on what it may have and on the wait for its
 * first byte. A redirect is followed only to the same kinds of address, and never from https to http.
 */
import { CarrelError, messageOf } from '#base/errors.ts';
import { formatSize } from '#base/units.ts';

const maxRedirects = 5;
const answerMs = 30_000;
/** What the server takes at most. */
const maxBytes = 16 * 2 ** 30;

/** Is it an address, and not the name of a file? */
export function isAddress(text: string): boolean {
  return /^[a-z][a-z0-9+.-]*:\/\//i.test(text);
}

function parseAddress(text: string, base?: URL): URL {
  let url: URL;
  try {
    url = new URL(text, base);
  } catch (cause) {
    throw new CarrelError('invalid_request', `${text.slice(0, 200)} is not an address`, { cause });
  }
  const downgrade = base?.protocol === 'https:' && url.protocol === 'http:';
  if (downgrade || (url.protocol !== 'https:' && url.protocol !== 'http:'))
    throw new CarrelError('invalid_request', `${url.protocol}//${url.host} is not downloaded from`, {
      hint: 'http and https are, and a redirect stays with https',
    });
  return url;
}

async function get(url: URL, signal: AbortSignal): Promise<Response> {
  try {
    return await fetch(url, { redirect: 'manual', signal, headers: { 'accept-encoding': 'identity' } });
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
    throw new CarrelError('unavailable', `${url.host} does not answer: ${messageOf(cause)}`, {
      cause: error,
    });
  }
}

/** The bytes at an address. */
export async function download(address: string): Promise<ReadableStream<Uint8Array>> {
  let url = parseAddress(address);
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(new Error(`no answer in ${answerMs / 1000} s`)), answerMs);
  try {
    for (let redirects = 0; redirects <= maxRedirects; redirects += 1) {
      const response = await get(url, stop.signal);
      const { status, headers, body } = response;
      const location = headers.get('location');
      if (status >= 300 && status < 400 && location !== null) {
        await body?.cancel();
        url = parseAddress(location, url);
        continue;
      }
      if (!response.ok || body === null) {
        await body?.cancel();
        throw new CarrelError('not_found', `${url.host} answers ${status} for ${url.pathname}`);
      }
      if (Number(headers.get('content-length') ?? 0) > maxBytes) {
        await body.cancel();
        throw new CarrelError('too_large', `The file at ${url.host} is larger than ${formatSize(maxBytes)}`);
      }
      return body;
    }
  } finally {
    clearTimeout(timer);
  }
  throw new CarrelError('unavailable', `${url.host} redirects more than ${maxRedirects} times`);
}
