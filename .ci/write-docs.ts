/** Writes the documents that are made from tables: docs/cli.md. */
import { writeFile } from 'node:fs/promises';
import { cliMarkdown } from '../src/cli/docs.ts';

await writeFile(new URL('../docs/cli.md', import.meta.url), cliMarkdown());
