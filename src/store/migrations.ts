import type { Database } from 'better-sqlite3';
import { PatchscopeError } from '../errors.js';
import { m001Initial } from './m001-initial.js';
import { m002Sites } from './m002-sites.js';
import { m003Sweeps } from './m003-sweeps.js';
import { m004Mappings } from './m004-mappings.js';
import { m005Probes } from './m005-probes.js';
import { m006Signatures } from './m006-signatures.js';
import { m007SourceEngine } from './m007-source-engine.js';
import { m008Cuts } from './m008-cuts.js';
import { m009MappingFits } from './m009-mapping-fits.js';
import { m010Choices } from './m010-choices.js';
import { m011KnownFacts } from './m011-known-facts.js';
import { m012Moves } from './m012-moves.js';
import { m013Vectors } from './m013-vectors.js';
import { m014Contrasts } from './m014-contrasts.js';
import { m015Adapters } from './m015-adapters.js';
import { m016Fidelity } from './m016-fidelity.js';

export interface Migration {
  readonly name: string;
  readonly sql: string;
}

/** Only ever appended to: files with any prefix of this list exist. */
export const migrations: readonly Migration[] = [
  m001Initial,
  m002Sites,
  m003Sweeps,
  m004Mappings,
  m005Probes,
  m006Signatures,
  m007SourceEngine,
  m008Cuts,
  m009MappingFits,
  m010Choices,
  m011KnownFacts,
  m012Moves,
  m013Vectors,
  m014Contrasts,
  m015Adapters,
  m016Fidelity,
];

/** "PSCP" in the header of the file; it tells our files from other SQLite databases. */
const applicationId = 0x50534350;

/**
 * Brings a blank or older database to the newest schema in one transaction; writes nothing if there is nothing
 * to do. Foreign keys are off meanwhile, since tables are made anew, hold again at its end, and stay on.
 *
 * @param prepare is called once it is known that the database is ours, before any write.
 */
export function migrate(database: Database, path: string, prepare: () => void = () => undefined): void {
  // In a transaction too, since its reads must see one and the same file.
  const pending = database.transaction(() => pendingMigrations(database, path));
  const isBehind = pending().length > 0;
  prepare();
  if (isBehind) applyPending(database, path);
  database.pragma('foreign_keys = ON');
}

function applyPending(database: Database, path: string): void {
  // inside a transaction it would do nothing
  database.pragma('foreign_keys = OFF');
  const apply = database.transaction(() => {
    // Asked again under the write lock: another process may have been faster.
    for (const { name, sql } of pendingMigrations(database, path)) {
      database.exec(sql);
      database
        .prepare('INSERT INTO migration (name, applied_at) VALUES (?, ?)')
        .run(name, new Date().toISOString());
    }
    const [lost] = database.pragma('foreign_key_check') as { readonly table: string }[];
    if (lost !== undefined) {
      throw new PatchscopeError(
        'store',
        `${path} is damaged: a row of its table ${lost.table} belongs to nothing; name another file`,
      );
    }
    database.pragma(`application_id = ${applicationId}`);
  });
  apply.immediate();
}

function pendingMigrations(database: Database, path: string): readonly Migration[] {
  const owner = database.pragma('application_id', { simple: true });
  const blank = owner === 0 && database.prepare('SELECT 1 FROM sqlite_schema').get() === undefined;
  if (blank) return migrations;
  if (owner !== applicationId) {
    throw new PatchscopeError(
      'store',
      `${path} is a database of another program, not a results file of patchscopes; name another file`,
    );
  }
  const applied = database.prepare<[], string>('SELECT name FROM migration ORDER BY name').pluck().all();
  const unknown = applied.find((name) => !migrations.some((migration) => migration.name === name));
  if (unknown !== undefined) {
    throw new PatchscopeError(
      'store',
      `${path} was made by a newer version of patchscopes (it has ${unknown}); update patchscopes or name another file`,
    );
  }
  return migrations.filter(({ name }) => !applied.includes(name));
}
