/** All that results files hold but for what differs between two runs of one plan: times, hosts, numbers of rows. */
import { query, type SqlValue } from '../src/store/query.js';

const different = new Set(['started_at', 'finished_at', 'applied_at', 'host', 'id']);

/** By table, rows in the order in which they were written. */
export function dumpResults(db: string): Record<string, readonly (readonly SqlValue[])[]> {
  const ask = (sql: string) => query(db, sql).rows;
  const tables = ask(
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
  ).map(([name]) => String(name));
  return Object.fromEntries(
    tables.map((table) => {
      const names = ask(`SELECT name FROM pragma_table_info('${table}')`).map(([name]) => String(name));
      if (names.includes('observation_id')) return [table, numbered(ask, table, names)];
      const columns = names.filter((name) => !different.has(name)).map((name) => `"${name}"`);
      const order = names.includes('id') ? 'id' : columns.map((_, i) => i + 1).join(', ');
      return [table, ask(`SELECT ${columns.join(', ')} FROM "${table}" ORDER BY ${order}`)];
    }),
  );
}

/** Rows that name an observation, by its place among those stored. */
function numbered(ask: (sql: string) => readonly (readonly SqlValue[])[], table: string, names: string[]) {
  const rest = names.filter((name) => name !== 'observation_id').map((name) => `t."${name}"`);
  return ask(
    `WITH o AS (SELECT id, row_number() OVER (ORDER BY id) AS place FROM observation)
    SELECT o.place, ${rest.join(', ')} FROM "${table}" AS t JOIN o ON o.id = t.observation_id
    ORDER BY 1, ${rest.join(', ')}`,
  );
}
