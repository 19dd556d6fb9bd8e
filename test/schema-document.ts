/** The schema of a results file as a page: tables, columns and what they mean, from the comments in the file itself. */
import type { Database } from 'better-sqlite3';

interface Item {
  readonly type: 'table' | 'view' | 'index' | 'trigger';
  readonly name: string;
  readonly sql: string;
}

interface Column {
  readonly name: string;
  readonly type: string;
  readonly notnull: number;
  readonly pk: number;
}

interface ForeignKey {
  readonly id: number;
  readonly from: string;
  readonly table: string;
  readonly to: string;
}

const introduction = `# Schema of a results file

Made from the database by \`npm run schema\`: each line is a comment that every results file carries; \`sqlite3 FILE .schema\` shows them too.

A layer is an integer: blocks count from 0, and \`embed\`, the input of block 0, is -1. In JSON it is \`"embed"\`. NULL: no layer, since nothing was patched. The side of a state is its variant's.
`;

export function schemaDocument(database: Database): string {
  const items = database
    .prepare<[], Item>('SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name')
    .all();
  const of = (type: Item['type']) => items.filter((item) => item.type === type);
  return `${[
    introduction,
    '## Views\n',
    ...of('view').map((item) => section(item, database)),
    '## Tables\n',
    ...of('table').map((item) => section(item, database)),
    '## Indexes and triggers\n',
    ...[...of('index'), ...of('trigger')].map((item) => `- \`${item.name}\`: ${meaning(item)}`),
  ].join('\n')}\n`;
}

function section(item: Item, database: Database): string {
  const columns = database.prepare<[string], Column>('SELECT * FROM pragma_table_info(?)').all(item.name);
  const keys = database
    .prepare<[string], ForeignKey>('SELECT * FROM pragma_foreign_key_list(?)')
    .all(item.name);
  const references = new Map<number, ForeignKey[]>();
  for (const key of keys) references.set(key.id, [...(references.get(key.id) ?? []), key]);
  return [
    `### ${item.name}\n`,
    `${meaning(item)}\n`,
    ...(item.type === 'table' ? tableRows(item, columns) : viewRows(item, columns)),
    '',
    ...[...references.values()].map(
      (key) =>
        `(${key.map(({ from }) => from).join(', ')}) belongs to ${key[0]!.table} (${key.map(({ to }) => to).join(', ')}).\n`,
    ),
  ].join('\n');
}

function tableRows(item: Item, columns: readonly Column[]): string[] {
  return [
    '| column | type | null | key | meaning |',
    '|---|---|---|---|---|',
    ...columns.map(({ name, type, notnull, pk }) =>
      row([`\`${name}\``, type, notnull || pk ? '' : 'yes', pk ? `${pk}` : '', columnMeaning(item, name)]),
    ),
  ];
}

function viewRows(item: Item, columns: readonly Column[]): string[] {
  return [
    '| column | meaning |',
    '|---|---|',
    ...columns.map(({ name }) => row([`\`${name}\``, columnMeaning(item, name)])),
  ];
}

function row(cells: readonly string[]): string {
  return `| ${cells.map((text) => text.replaceAll('|', '\\|')).join(' | ')} |`;
}

/** The comment lines at its beginning. */
function meaning({ sql, name }: Item): string {
  const [, comment] = /^[^\n]*\n((?: +-- [^\n]*\n)+)/.exec(sql) ?? [];
  if (comment === undefined) throw new Error(`${name} has no comment at its beginning`);
  return comment.replaceAll(/ +-- /g, '').trim().replaceAll('\n', ' ');
}

/** The comment behind a column, or in its definition where it was added later. */
function columnMeaning({ sql, type }: Item, name: string): string {
  const behind = type === 'view' ? `[ .]"?${name}"?,? -- (.*)$` : `^ +"?${name}"? [A-Z].* -- (.*)$`;
  const comment =
    new RegExp(behind, 'm').exec(sql)?.[1] ?? new RegExp(`\\b${name} /\\* (.*?) \\*/`, 's').exec(sql)?.[1];
  return (comment ?? '').replaceAll(/\s+/g, ' ');
}
