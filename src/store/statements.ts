import type { Database, Statement } from 'better-sqlite3';

export interface Statements {
  readonly addModel: Statement;
  readonly modelId: Statement<[sha256: string], number>;
  readonly addMapping: Statement;
  readonly mappingId: Statement<[name: string], number>;
  readonly addRun: Statement;
  readonly addPrompt: Statement;
  readonly addVector: Statement;
  readonly addSample: Statement;
  readonly addVariant: Statement;
  readonly addMove: Statement;
  readonly targetModel: Statement<[runId: number], number>;
  readonly addChunk: Statement;
  readonly doneChunks: Statement<[runId: number], number>;
  readonly addObservation: Statement;
  readonly addToken: Statement;
  readonly addTokenScore: Statement;
  readonly addScore: Statement;
  /** Those of one metric that is made when a run ends. */
  readonly deleteScores: Statement<[name: string, runId: number]>;
  readonly addRelevancy: Statement;
  readonly countFailed: Statement;
  readonly resumeRun: Statement;
  readonly finishRun: Statement;
  readonly knownSamples: Statement<[runId: number], number>;
  readonly probedGroups: Statement<[runId: number], ProbedGroup>;
  readonly addProbe: Statement;
  readonly addPrediction: Statement;
  readonly addMetric: Statement;
  readonly deleteMetrics: Statement;
  readonly addEffect: Statement;
  readonly deleteEffects: Statement;
  readonly addChoice: Statement;
  readonly deleteChoices: Statement;
}

/** One that has its probes, in one variant. */
export interface ProbedGroup {
  readonly variant: string;
  readonly group: string;
}

/** Every statement that writes results, prepared once per connection; values go by place, which is fastest. */
export function prepareStatements(database: Database): Statements {
  return {
    addModel: database.prepare(
      `INSERT INTO model
        (sha256, path, bytes, architecture, name, quantization, layers, width, vocabulary)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
      ON CONFLICT (sha256) DO NOTHING`,
    ),
    modelId: database.prepare<[sha256: string], number>('SELECT id FROM model WHERE sha256 = ?').pluck(),
    addMapping: database.prepare(
      'INSERT INTO mapping (name, kind, sha256, record) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING',
    ),
    mappingId: database.prepare<[name: string], number>('SELECT id FROM mapping WHERE name = ?').pluck(),
    addRun: database.prepare(
      `INSERT INTO run
        (name, command, experiment, experiment_source, experiment_file, reading, seed, source_model_id, target_model_id,
        package, addon, llama_cpp, backend, devices, gpu_layers, threads, batch_tokens, batch_rows, batch_outputs,
        cache_layout, type_k, type_v, flash_attention, exact, split_mode, source_engine, adapters, tolerance, host, started_at, status,
        plan_sha256, cells_planned, chunks_planned, shard_index, shard_count)
      VALUES
        (:name, :command, :experiment, :experimentSource, :experimentFile, :reading, :seed, :sourceModelId, :targetModelId,
        :package, :addon, :llamaCpp, :backend, :devices, :gpuLayers, :threads, :batchTokens, :batchRows, :batchOutputs,
        :cacheLayout, :typeK, :typeV, :flashAttention, :exact, :splitMode, :sourceEngine, :adapters, :tolerance, :host, :startedAt, 'running',
        :planSha256, :cellsPlanned, :chunksPlanned, :shardIndex, :shardCount)`,
    ),
    addPrompt: database.prepare(
      `INSERT INTO prompt (run_id, idx, text, token_ids, decoder_token_ids, bos, chat, special)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    addVector: database.prepare('INSERT INTO vector (run_id, idx, text, record) VALUES (?, ?, ?, ?)'),
    addSample: database.prepare(
      'INSERT INTO sample (run_id, idx, name, "group", answer, subject, class) VALUES (?, ?, ?, ?, ?, ?, ?)',
    ),
    addVariant: database.prepare(
      `INSERT INTO variant
        (run_id, sample_idx, name,
        source_prompt_idx, source_side, source_position, source_token_id, source_token,
        target_prompt_idx, target_side, target_position, target_token_id, target_token,
        op, alpha, at_generated, cuts, swept, source_adapter, target_adapter, source_vector_idx, own_edits, contrast,
        decay, answer)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    addMove: database.prepare(
      `INSERT INTO move
        (run_id, sample_idx, variant, idx,
        source_position, source_token_id, source_token, target_position, target_token_id, target_token)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    targetModel: database
      .prepare<[runId: number], number>('SELECT target_model_id FROM run WHERE id = ?')
      .pluck(),
    addChunk: database.prepare('INSERT INTO chunk (run_id, idx, cells, finished_at) VALUES (?, ?, ?, ?)'),
    doneChunks: database
      .prepare<[runId: number], number>('SELECT idx FROM chunk WHERE run_id = ? ORDER BY idx')
      .pluck(),
    addObservation: database.prepare(
      `INSERT INTO observation
        (run_id, sample_idx, variant, source_site, site, source_layer, target_layer, mapping_id, control, draw,
        status, error, text, token_ids, empty, repetitive, unprintable, norm_ratio, differs, move_idx)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    addToken: database.prepare(
      'INSERT INTO token (model_id, token_id, text) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
    ),
    addTokenScore: database.prepare(
      'INSERT INTO token_score (observation_id, step, rank, token_id, logprob) VALUES (?, ?, ?, ?, ?)',
    ),
    addScore: database.prepare('INSERT INTO score (observation_id, name, value) VALUES (?, ?, ?)'),
    deleteScores: database.prepare(
      'DELETE FROM score WHERE name = ? AND observation_id IN (SELECT id FROM observation WHERE run_id = ?)',
    ),
    addRelevancy: database.prepare(
      'INSERT INTO token_relevancy (observation_id, step, token_id, probability, unpatched) VALUES (?, ?, ?, ?, ?)',
    ),
    countFailed: database.prepare('UPDATE run SET cells_failed = cells_failed + ? WHERE id = ?'),
    resumeRun: database.prepare("UPDATE run SET status = 'running', finished_at = NULL WHERE id = ?"),
    finishRun: database.prepare('UPDATE run SET status = ?, finished_at = ? WHERE id = ?'),
    knownSamples: database
      .prepare<[runId: number], number>(
        'SELECT sample_idx FROM known_sample WHERE run_id = ? ORDER BY sample_idx',
      )
      .pluck(),
    probedGroups: database.prepare<[runId: number], ProbedGroup>(
      'SELECT DISTINCT variant, "group" FROM probe WHERE run_id = ?',
    ),
    addProbe: database.prepare(
      `INSERT INTO probe (run_id, variant, "group", known, samples, subjects, classes, note, finished_at)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    addPrediction: database.prepare(
      `INSERT INTO probe_prediction
        (run_id, variant, sample_idx, known, source_site, source_layer, fold, predicted, correct)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    addMetric: database.prepare(
      `INSERT INTO metric
        (run_id, name, control, variant, mapping_id, source_site, site, source_layer, target_layer, "group",
        value, n, ci_low, ci_high)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    deleteMetrics: database.prepare('DELETE FROM metric WHERE run_id = ?'),
    addEffect: database.prepare(
      `INSERT INTO effect
        (run_id, name, control, variant, mapping_id, source_site, site, source_layer, target_layer, "group",
        value, n, samples, ci_low, ci_high)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    deleteEffects: database.prepare('DELETE FROM effect WHERE run_id = ?'),
    addChoice: database.prepare(
      `INSERT INTO choice
        (run_id, name, variant, tried_on, chosen, layers, samples, value, ci_low, ci_high,
        difference, difference_low, difference_high, beyond, beyond_low, beyond_high)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    deleteChoices: database.prepare('DELETE FROM choice WHERE run_id = ?'),
  };
}
