/**
 * Answers byte by byte as the original gives them: Flask's JSON (keys sorted, ASCII only, nothing between the
 * tokens, a newline at the end) and Werkzeug's pages for what is no request of the API.
 */

export interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string | Buffer;
  readonly headers?: Readonly<Record<string, string>>;
}

export type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json };

const html = 'text/html; charset=utf-8';

/** JSON text as Python's json.dumps(sort_keys=True, separators=(',', ':')) writes it. */
export function pythonJson(value: Json): string {
  return ascii(JSON.stringify(sorted(value)));
}

function sorted(value: Json): Json {
  if (typeof value !== 'object' || value === null) return value;
  if (isList(value)) return value.map(sorted);
  const keys = Object.keys(value).toSorted();
  return Object.fromEntries(keys.map((key) => [key, sorted(value[key] ?? null)]));
}

function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}

function ascii(text: string): string {
  return text.replace(/[\u007f-\uffff]/g, (unit) =>
    unit === '\u007f' ? unit : `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

export function jsonAnswer(value: Json): Answer {
  return { status: 200, type: 'application/json', body: `${pythonJson(value)}\n` };
}

/** Every error of the API itself is a success of HTTP. */
export function errorAnswer(message: string): Answer {
  return jsonAnswer({ status: 'error', error_msg: message });
}

export const welcome: Answer = { status: 200, type: html, body: 'Welcome to OS Cloud!\n' };

const pages = {
  400: ['Bad Request', 'The browser (or proxy) sent a request that this server could not understand.'],
  401: [
    'Unauthorized',
    'This cloud wants to know who you are: send a token as &quot;Authorization: Bearer ...&quot;.',
  ],
  403: ['Forbidden', 'This cloud answers requests that name it as localhost only.'],
  404: [
    'Not Found',
    'The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again.',
  ],
  405: ['Method Not Allowed', 'The method is not allowed for the requested URL.'],
  413: ['Request Entity Too Large', 'The data value transmitted exceeds the capacity limit.'],
  415: [
    'Unsupported Media Type',
    'Did not attempt to load JSON data because the request Content-Type was not &#39;application/json&#39;.',
  ],
  503: ['Service Unavailable', 'The server is temporarily unable to service your request. Please try again.'],
} as const;

export function page(status: keyof typeof pages, headers: Readonly<Record<string, string>> = {}): Answer {
  const [title, text] = pages[status];
  return {
    status,
    type: html,
    body: `<!doctype html>\n<html lang=en>\n<title>${status} ${title}</title>\n<h1>${title}</h1>\n<p>${text}</p>\n`,
    headers,
  };
}
