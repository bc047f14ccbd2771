/** `carrel oscloud tables`: the control plane's own records, for looking at them in class. */
import { CarrelError } from '#base/errors.ts';
import type { Action } from '../spec.ts';
import { renderTable } from '../ui/table.ts';

type Row = Readonly<Record<string, string | number | null>>;

function tableText(rows: readonly Row[]): string {
  const [first] = rows;
  if (!first) return '(no rows)';
  const columns = Object.keys(first).map((head) => ({ head, cell: (row: Row) => row[head] ?? 'NULL' }));
  return renderTable(rows, columns, { paintHead: (text) => text });
}

export const osCloudTables: Action = async ({ args, out, connect }) => {
  const wanted = args.wordIf('table');
  const { client } = await connect();
  const tables: Readonly<Record<string, readonly Row[]>> = await client.getOsCloudTables({ params: {} });
  if (wanted === undefined) {
    out.result(tables, () =>
      Object.entries(tables)
        .map(([name, rows]) => `${name}\n${tableText(rows)}`)
        .join('\n\n'),
    );
    return undefined;
  }
  const rows = tables[wanted];
  if (!rows)
    throw new CarrelError('invalid_request', `there is no table ${wanted}`, {
      hint: `there are ${Object.keys(tables).join(', ')}`,
    });
  out.result(rows, tableText);
  return undefined;
};
