import assert from 'node:assert/strict';
import { test } from 'node:test';
import { z } from 'zod';
import { operations } from './api.ts';
import { openApi, openApiText } from './openapi.ts';

const operation = z.object({
  operationId: z.string(),
  summary: z.string().min(1),
  security: z.array(z.record(z.string(), z.array(z.string()))),
  parameters: z.array(
    z.object({
      name: z.string(),
      in: z.enum(['path', 'query', 'header']),
      required: z.boolean(),
      schema: z.record(z.string(), z.unknown()),
    }),
  ),
  requestBody: z.object({ required: z.boolean(), content: z.record(z.string(), z.unknown()) }).optional(),
  responses: z.record(z.string().regex(/^(\d{3}|default)$/), z.unknown()),
});

test('every operation is in the document, with its parameters, body and answers', () => {
  const { paths, openapi } = openApi();
  assert.equal(openapi, '3.1.0');
  for (const [name, route] of operations) {
    const found = operation.parse(paths[route.path]?.[route.method.toLowerCase()]);
    assert.equal(found.operationId, name);
    const inPath = [...route.path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]);
    assert.deepEqual(
      found.parameters.filter((parameter) => parameter.in === 'path').map((parameter) => parameter.name),
      inPath,
    );
    assert.deepEqual(
      found.parameters.filter((parameter) => parameter.in === 'query').map((parameter) => parameter.name),
      Object.keys(route.query?.shape ?? {}),
    );
    assert.equal(
      found.requestBody !== undefined,
      route.body !== undefined || route.bytes !== undefined,
      name,
    );
    assert.equal(found.security.length > 0, route.access !== 'public', name);
  }
  const count = Object.values(paths).flatMap((methods) => Object.keys(methods)).length;
  assert.equal(count, operations.length, 'two operations share a path and method');
});

test('every reference leads somewhere', () => {
  const text = openApiText();
  const { components } = z
    .object({ components: z.record(z.string(), z.record(z.string(), z.unknown())) })
    .parse(JSON.parse(text));
  const references = [...text.matchAll(/"\$ref":"#\/components\/(\w+)\/(\w+)"/g)];
  assert.ok(references.length > 20);
  for (const [, section = '', name = ''] of references)
    assert.ok(components[section]?.[name], `${section}/${name}`);
  assert.equal([...text.matchAll(/"\$ref":"/g)].length, references.length, 'a reference of another kind');
  assert.ok(!text.includes('$defs'));
});

test('each operation id is unique and each path has a version or is well known', () => {
  for (const [, { path }] of operations) assert.match(path, /^\/(v1\/|openapi\.json$)/);
});
