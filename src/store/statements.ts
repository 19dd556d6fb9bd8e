import type { Database, Statement } from 'better-sqlite3';

export interface Statements {
  readonly addModel: Statement;
  readonly modelId: Statement<[sha256: string], number>;
  readonly addRun: Statement;
  readonly addSample: Statement;
  readonly modelsOfRun: Statement<[runId: number], { source: number; target: number }>;
  readonly addObservation: Statement;
  readonly addToken: Statement;
  readonly addScore: Statement;
  readonly countFailed: Statement;
  readonly finishRun: Statement;
  readonly unfinishedRun: Statement<[run: object], Readonly<Record<string, unknown>>>;
  readonly resumeRun: Statement;
}

/** Every statement that writes results, prepared once per connection. */
export function prepareStatements(database: Database): Statements {
  return {
    addModel: database.prepare(
      `INSERT INTO model
				(sha256, path, bytes, architecture, name, quantization, layers, width, vocabulary)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (sha256) DO NOTHING`,
    ),
    modelId: database.prepare<[sha256: string], number>('SELECT id FROM model WHERE sha256 = ?').pluck(),
    addRun: database.prepare(
      `INSERT INTO run
				(name, command, experiment, reading, seed, source_model_id, target_model_id,
				package, llama_cpp, backend, devices, gpu_layers, threads, batch_tokens, batch_rows, batch_outputs, cache_layout,
				type_k, type_v, flash_attention, exact, split_mode, tolerance, started_at, status, cells_planned)
			VALUES
				(:name, :command, :experiment, :reading, :seed, :sourceModelId, :targetModelId,
				:package, :llamaCpp, :backend, :devices, :gpuLayers, :threads, :batchTokens, :batchRows, :batchOutputs, :cacheLayout,
				:typeK, :typeV, :flashAttention, :exact, :splitMode, :tolerance, :startedAt, 'running', :cellsPlanned)`,
    ),
    addSample: database.prepare(
      `INSERT INTO sample
				(run_id, idx, name, source_prompt, source_token_ids, target_prompt, target_token_ids)
			VALUES (?, ?, ?, ?, ?, ?, ?)`,
    ),
    modelsOfRun: database.prepare<[runId: number], { source: number; target: number }>(
      'SELECT source_model_id AS source, target_model_id AS target FROM run WHERE id = ?',
    ),
    addObservation: database.prepare(
      `INSERT INTO observation
				(run_id, sample_idx, variant, source_site, site, source_layer, target_layer, op, alpha, at_generated,
				source_position, source_token_id, source_token,
				target_position, target_token_id, target_token,
				status, error, text, token_ids)
			VALUES
				(:runId, :sample, :variant, :sourceSite, :targetSite, :sourceLayer, :targetLayer, :op, :alpha, :atGenerated,
				:sourcePosition, :sourceTokenId, :sourceToken,
				:targetPosition, :targetTokenId, :targetToken,
				:status, :error, :text, :tokenIds)`,
    ),
    addToken: database.prepare(
      `INSERT INTO token (model_id, token_id, text) VALUES (?, ?, ?)
			ON CONFLICT DO NOTHING`,
    ),
    addScore: database.prepare(
      'INSERT INTO token_score (observation_id, step, rank, token_id, logprob) VALUES (?, ?, ?, ?, ?)',
    ),
    countFailed: database.prepare('UPDATE run SET cells_failed = cells_failed + ? WHERE id = ?'),
    unfinishedRun: database.prepare<[run: object], Readonly<Record<string, unknown>>>(
      `SELECT run.*, (SELECT count(*) FROM observation WHERE observation.run_id = run.id) AS cells_stored
			FROM run
			WHERE name = :name AND experiment = :experiment AND status <> 'done'
				AND source_model_id = :sourceModelId AND target_model_id = :targetModelId
			ORDER BY id DESC LIMIT 1`,
    ),
    resumeRun: database.prepare("UPDATE run SET status = 'running', finished_at = NULL WHERE id = ?"),
    finishRun: database.prepare('UPDATE run SET status = ?, finished_at = ? WHERE id = ?'),
  };
}
