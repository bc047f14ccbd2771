/** YAML with a schema: every complaint names the file, the line and the field. */
import { LineCounter, type Document, isMap, isNode, isScalar, parseDocument } from 'yaml';
import type { z } from 'zod';
import { CarrelError } from '#base/errors.ts';
import { plain } from './values.ts';

/** A lab.yaml is written by a person; what is larger was not. */
export const maxYamlBytes = 256 * 1024;
/** Each alias may stand for a large tree: the limit of the yaml library against "billion laughs". */
const maxAliases = 100;
const maxProblems = 20;

interface Problem {
  readonly line: number | undefined;
  readonly field: string;
  readonly message: string;
}

const fieldName = (path: readonly PropertyKey[]): string =>
  path.reduce<string>(
    (text, part) =>
      typeof part === 'number' ? `${text}[${part}]` : text === '' ? String(part) : `${text}.${String(part)}`,
    '',
  );

/** The line of the deepest node on the way to `path` that exists; for `key`, of that key itself. */
function lineOf(document: Document.Parsed, lines: LineCounter, path: readonly PropertyKey[], key?: string) {
  let node: unknown = document.contents;
  let offset = isNode(node) ? node.range?.[0] : undefined;
  for (const part of key === undefined ? path : [...path, key]) {
    if (isMap(node)) {
      const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(part));
      if (!pair) break;
      if (isScalar(pair.key)) offset = pair.key.range?.[0] ?? offset;
      node = pair.value;
    } else {
      node = document.getIn([part], true) === undefined && !isNode(node) ? undefined : itemOf(node, part);
      if (isNode(node)) offset = node.range?.[0] ?? offset;
    }
    if (node === undefined) break;
  }
  return offset === undefined ? undefined : lines.linePos(offset).line;
}

function itemOf(node: unknown, part: PropertyKey): unknown {
  if (typeof node !== 'object' || node === null || !('items' in node) || !Array.isArray(node.items))
    return undefined;
  const items: readonly unknown[] = node.items;
  return items[Number(part)];
}

function problemsOf(
  issue: z.core.$ZodIssue,
  at: (path: readonly PropertyKey[], key?: string) => number | undefined,
) {
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map((key) => ({
      line: at(issue.path, key),
      field: fieldName([...issue.path, key]),
      message: 'is no field that is known here',
    }));
  // what is wrong with the key stands in an issue of its own
  const message = (issue.code === 'invalid_key' ? issue.issues[0]?.message : undefined) ?? issue.message;
  return [{ line: at(issue.path), field: fieldName(issue.path), message }];
}

/** A `lab_invalid` error that lists the problems, the first ones in its sentence. */
export function invalid(file: string, problems: readonly Problem[]): CarrelError {
  const listed = problems
    .slice(0, maxProblems)
    .map(
      ({ line, field, message }) =>
        `${file}${line === undefined ? '' : `:${line}`}: ${field === '' ? '' : `${field} `}${message}`,
    );
  const more = problems.length > maxProblems ? [`... and ${problems.length - maxProblems} more`] : [];
  return new CarrelError('lab_invalid', [...listed, ...more].join('\n'), {
    details: { file, problems: problems.slice(0, maxProblems) },
  });
}

export interface Parsed<T> {
  readonly value: T;
  /** An error about a field of this document, with its line: for what no schema can check. */
  readonly complain: (problems: readonly { path: readonly PropertyKey[]; message: string }[]) => CarrelError;
}

/** Parses `text`; unknown fields, duplicate keys and wrong types are refused with their lines. */
export function parseYaml<T extends z.ZodType>(file: string, text: string, schema: T): Parsed<z.output<T>> {
  if (Buffer.byteLength(text) > maxYamlBytes)
    throw new CarrelError('lab_invalid', `${file} is larger than ${maxYamlBytes / 1024} KiB`);
  const lines = new LineCounter();
  const document = parseDocument(text, {
    lineCounter: lines,
    intAsBigInt: true,
    prettyErrors: false,
    stringKeys: true,
    uniqueKeys: true,
  });
  if (document.errors.length > 0)
    throw invalid(
      file,
      document.errors.map(({ pos, message }) => ({ line: lines.linePos(pos[0]).line, field: '', message })),
    );
  let data: unknown;
  try {
    data = plain(document.toJS({ maxAliasCount: maxAliases }));
  } catch (cause) {
    throw new CarrelError(
      'lab_invalid',
      `${file}: ${cause instanceof Error ? cause.message : String(cause)}`,
      { cause },
    );
  }
  const at = (path: readonly PropertyKey[], key?: string): number | undefined =>
    lineOf(document, lines, path, key);
  const result = schema.safeParse(data);
  if (!result.success)
    throw invalid(
      file,
      result.error.issues.flatMap((issue) => problemsOf(issue, at)),
    );
  return {
    value: result.data,
    complain: (problems) =>
      invalid(
        file,
        problems.map(({ path, message }) => ({ line: at(path), field: fieldName(path), message })),
      ),
  };
}
