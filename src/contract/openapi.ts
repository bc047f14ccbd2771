/** The OpenAPI 3.1 document, made from the same schemas that validate requests. */
import { z } from 'zod';
import { operations } from './api.ts';
import { takesIfMatch, type Route } from './route.ts';
import { problem } from './schemas/common.ts';
import * as jobSchemas from './schemas/jobs.ts';
import * as labSchemas from './schemas/labs.ts';
import * as machineSchemas from './schemas/machines.ts';
import * as networkSchemas from './schemas/networks.ts';
import * as peopleSchemas from './schemas/people.ts';
import * as snapshotSchemas from './schemas/snapshots.ts';

type Json = Readonly<Record<string, unknown>>;

export interface OpenApiDocument {
  readonly openapi: '3.1.0';
  readonly info: Json;
  readonly paths: Readonly<Record<string, Readonly<Record<string, Json>>>>;
  readonly components: Json;
  readonly [more: string]: unknown;
}

/** The shapes worth a name; every other schema stands where it is used. */
const named: Readonly<Record<string, z.ZodType>> = {
  Problem: problem,
  Job: jobSchemas.job,
  Event: jobSchemas.event,
  Health: jobSchemas.health,
  User: peopleSchemas.user,
  Token: peopleSchemas.token,
  Course: peopleSchemas.course,
  Member: peopleSchemas.member,
  Machine: machineSchemas.machine,
  Exec: machineSchemas.exec,
  Stats: machineSchemas.stats,
  Image: machineSchemas.image,
  Network: networkSchemas.network,
  Snapshot: snapshotSchemas.snapshot,
  Lab: labSchemas.lab,
  Submission: labSchemas.submission,
  Grade: labSchemas.grade,
  Regrade: labSchemas.regrade,
};

const registry = z.registry<{ id: string }>();
const names = new Map<z.ZodType, string>();
for (const [id, schema] of Object.entries(named)) {
  registry.add(schema, { id });
  names.set(schema, id);
}

/** A schema written out in place. */
function inline(schema: z.ZodType, io: 'input' | 'output'): Json {
  const { $schema: _, ...json } = z.toJSONSchema(schema, { io, unrepresentable: 'any' });
  return json;
}

/** The schema of a reply: what has a name is referred to by it. */
function referring(schema: z.ZodType): Json {
  const name = names.get(schema);
  if (name !== undefined) return { $ref: `#/components/schemas/${name}` };
  const json = z.toJSONSchema(schema, { io: 'output', unrepresentable: 'any', metadata: registry });
  const { $schema: _, $defs: __, ...rest } = json;
  return withReferences(rest);
}

const jsonObject = z.record(z.string(), z.unknown());

/** `#/$defs/X` is where zod puts named shapes; here they are components. */
function withReferences(json: unknown): Json {
  const moved = JSON.stringify(json, (key, value: unknown) =>
    key === '$ref' && typeof value === 'string' ? value.replace('#/$defs/', '#/components/schemas/') : value,
  );
  return jsonObject.parse(JSON.parse(moved));
}

function parametersOf(route: Route): Json[] {
  const path = [...route.path.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => ({
    name,
    in: 'path',
    required: true,
    schema: { type: 'string' },
  }));
  const query = Object.entries(route.query?.shape ?? {}).map(([name, schema]) => ({
    name,
    in: 'query',
    required: !z.safeParse(schema, undefined).success,
    schema: inline(queryShape(schema), 'input'),
  }));
  const headers: Json[] = [];
  if (route.idempotent)
    headers.push(header('Idempotency-Key', 'The same key and body make the same thing once, for 24 hours'));
  if (takesIfMatch(route))
    headers.push(header('If-Match', 'Refuse the write if the object has another ETag'));
  return [...path, ...query, ...headers];
}

function queryShape(schema: unknown): z.ZodType {
  return schema instanceof z.ZodType ? schema : z.string();
}

function header(name: string, description: string): Json {
  return { name, in: 'header', required: false, description, schema: { type: 'string' } };
}

const binary = { type: 'string', format: 'binary' } as const;

function bodyOf(route: Route): Json {
  if (route.bytes)
    return {
      requestBody: {
        required: true,
        description: `At most ${route.bytes.maxBytes} bytes`,
        content: Object.fromEntries(route.bytes.types.map((type) => [type, { schema: binary }])),
      },
    };
  if (!route.body) return {};
  return {
    requestBody: {
      required: !z.safeParse(route.body, {}).success,
      content: { 'application/json': { schema: inline(route.body, 'input') } },
    },
  };
}

function replyOf(route: Route): Json {
  const headers: Record<string, Json> = { 'X-Request-Id': { schema: { type: 'string' } } };
  if (route.etag) headers['ETag'] = { schema: { type: 'string' } };
  if (route.status === 202) headers['Location'] = { schema: { type: 'string' }, description: 'The job' };
  const status = route.websocket ? 101 : (route.status ?? (route.reply || route.replyBytes ? 200 : 204));
  const content = route.reply
    ? { content: { 'application/json': { schema: referring(route.reply) } } }
    : route.replyBytes === undefined
      ? {}
      : { content: { [route.replyBytes]: { schema: binary } } };
  return {
    [status]: { description: route.websocket ? 'The WebSocket is open' : 'Done', headers, ...content },
    default: { $ref: '#/components/responses/Problem' },
  };
}

/** The whole document. */
export function openApi(): OpenApiDocument {
  const paths: Record<string, Record<string, Json>> = {};
  for (const [operationId, route] of operations) {
    const methods = (paths[route.path] ??= {});
    methods[route.method.toLowerCase()] = {
      operationId,
      summary: route.doc,
      tags: [tagOf(route.path)],
      security: route.access === 'public' ? [] : [{ token: [] }],
      'x-access': route.access,
      parameters: parametersOf(route),
      ...bodyOf(route),
      responses: replyOf(route),
    };
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Carrel', version: '1', description: 'A self-hosted teaching cloud for systems courses' },
    paths,
    components: {
      schemas: Object.fromEntries(
        Object.entries(named).map(([name, schema]) => [name, inline(schema, 'output')]),
      ),
      responses: {
        Problem: {
          description: 'An error (RFC 9457); `code` is stable',
          content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
        },
      },
      securitySchemes: { token: { type: 'http', scheme: 'bearer', description: 'carrel_...' } },
    },
  };
}

/** `/v1/machines/{machine}/run` -> `machines`. */
function tagOf(path: string): string {
  return path.split('/').find((part) => part !== '' && part !== 'v1') ?? 'system';
}

let text: string | undefined;

/** The document as JSON text, made once. */
export function openApiText(): string {
  text ??= JSON.stringify(openApi());
  return text;
}
