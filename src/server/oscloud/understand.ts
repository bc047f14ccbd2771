/**
 * From a request to what is asked for, or to the answer of one that asks for nothing: the pure half of the
 * OS-Cloud routes. What is checked, in which order, and with which words, is the original's.
 */
import { z } from 'zod';
import { CarrelError } from '#base/errors.ts';
import { sshKey } from '#contract/schemas/keys.ts';
import { mediaTypeOf } from '../http/body.ts';
import { parseJson } from '../http/json.ts';
import { type Answer, errorAnswer, page, welcome } from './answers.ts';
import { sizeOf } from './sizes.ts';

export interface Request {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly contentType: string | undefined;
  readonly body: Uint8Array;
}

export interface WantedVm {
  /** Any characters. */
  readonly name: string;
  readonly image: string;
  readonly network: string;
  readonly memoryBytes: number;
  readonly diskBytes: number;
  readonly sshKey: string | null;
}

/** A VM's number as it was given: `number` is undefined for what can be none. */
export interface VmId {
  readonly text: string;
  readonly number: number | undefined;
}

export type Ask =
  | { readonly kind: 'list' }
  | { readonly kind: 'create'; readonly wanted: WantedVm }
  | { readonly kind: 'start' | 'stop' | 'info'; readonly id: VmId };

export type Understood = { readonly ask: Ask } | { readonly answer: Answer };

type Fields = Readonly<Record<string, unknown>>;

const posts: ReadonlyMap<string, (fields: Fields) => Ask> = new Map([
  ['/vm_create', askCreate],
  ['/vm_start', (fields: Fields): Ask => ({ kind: 'start', id: idOf(fields) })],
  ['/vm_stop', (fields: Fields): Ask => ({ kind: 'stop', id: idOf(fields) })],
  ['/vm_info', (fields: Fields): Ask => ({ kind: 'info', id: idOf(fields) })],
]);

/** The refusal of one request, as it is answered. */
class Refusal extends Error {}

export function understand({ method, path, contentType, body }: Request): Understood {
  const read = path === '/' || path === '/vm_list';
  const post = posts.get(path);
  if (!read && !post) return { answer: page(404) };
  const allowed = read ? ['HEAD', 'OPTIONS', 'GET'] : ['POST', 'OPTIONS'];
  const allow = { allow: allowed.join(', ') };
  if (!allowed.includes(method)) return { answer: page(405, allow) };
  if (method === 'OPTIONS')
    return { answer: { status: 200, type: 'text/html; charset=utf-8', body: '', headers: allow } };
  if (!post) return path === '/' ? { answer: welcome } : { ask: { kind: 'list' } };

  if (!/^application\/(?:json|[^;]+\+json)$/.test(mediaTypeOf(contentType) ?? ''))
    return { answer: page(415) };
  let value: unknown;
  try {
    value = parseJson(body);
  } catch (error) {
    if (error instanceof CarrelError) return { answer: page(400) };
    throw error;
  }
  const fields = z.record(z.string(), z.unknown()).safeParse(value);
  if (!fields.success) return { answer: errorAnswer('the body is not a JSON object') };
  try {
    return { ask: post(fields.data) };
  } catch (error) {
    if (error instanceof Refusal) return { answer: errorAnswer(error.message) };
    throw error;
  }
}

/** What Python takes for nothing: missing, null, false, 0, and what is empty. */
function isGiven(value: unknown): boolean {
  if (Array.isArray(value)) return value.length > 0;
  if (typeof value === 'object' && value !== null) return Object.keys(value).length > 0;
  return value !== undefined && value !== null && value !== false && value !== 0 && value !== '';
}

const maxText = 255;

function askCreate(fields: Fields): Ask {
  for (const field of ['name', 'image', 'network', 'mem_size', 'disk_size'])
    if (!isGiven(fields[field])) throw new Refusal(`VM ${field} not provided`);
  const memoryBytes = size(fields, 'mem_size');
  const diskBytes = size(fields, 'disk_size');
  return {
    kind: 'create',
    wanted: {
      name: text(fields, 'name'),
      image: text(fields, 'image'),
      network: text(fields, 'network'),
      memoryBytes,
      diskBytes,
      sshKey: keyOf(fields['ssh_key']),
    },
  };
}

function size(fields: Fields, field: string): number {
  const bytes = sizeOf(fields[field]);
  if (bytes === undefined) throw new Refusal(`Invalid ${field}: ${shown(fields[field])}`);
  return bytes;
}

function text(fields: Fields, field: string): string {
  const value = fields[field];
  const given = typeof value === 'number' ? String(value) : value;
  if (typeof given === 'string' && given.length <= maxText) return given;
  throw new Refusal(`Invalid ${field}: it must be text of at most ${maxText} characters`);
}

/** One line of authorized_keys(5); an empty one is none. */
function keyOf(value: unknown): string | null {
  if (!isGiven(value)) return null;
  const parsed = sshKey.safeParse(typeof value === 'string' ? value.trim() : value);
  if (parsed.success) return parsed.data;
  throw new Refusal(`Invalid ssh_key: ${parsed.error.issues[0]?.message ?? 'it is no public key'}`);
}

function idOf({ id }: Fields): VmId {
  if (!isGiven(id)) throw new Refusal('VM id not provided');
  const text = shown(id);
  const number = Number(/^[1-9]\d{0,8}$/.exec(text)?.[0]);
  return { text, number: Number.isInteger(number) && typeof id !== 'object' ? number : undefined };
}

/** A value in an answer: text as it is, the rest as JSON; not more of it than helps. */
function shown(value: unknown): string {
  return (typeof value === 'string' ? value : JSON.stringify(value)).slice(0, 100).toWellFormed();
}
