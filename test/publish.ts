/**
 * Experiments, small, on both real models: `npm run results` writes their tables and pictures into results/ anew, or
 * of those experiments alone that are named first; options, such as `-t 1`, go to each run. Runs in
 * results/published.db that are whole are taken, and others go on.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { query } from '../src/index.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const results = path.join(root, 'results');
const db = path.join(results, 'published.db');
const words = process.argv.slice(2);
const firstOption = words.findIndex((word) => word.startsWith('-'));
/** Those to be published; without any, all. */
const names = firstOption < 0 ? words : words.slice(0, firstOption);
const further = words.slice(names.length);

interface Published {
  readonly name: string;
  /** Settings of a run on each model; of an experiment that names two itself, on its source's. */
  readonly models: Readonly<Record<string, readonly string[]>>;
  readonly namesItsModels?: true;
  /** What is found, of the run `:run`. */
  readonly tables: readonly { readonly title: string; readonly sql: string }[];
  /** Of the report's pictures. */
  readonly pictures: readonly string[];
}

const [smollm2, gemma] = ['smollm2-135m-instruct', 'gemma-3-270m'];
const relations = ['country_capital_city', 'country_currency', 'fruit_outside_color'];
const someFacts = `samples={data: [${relations.map((name) => `relations/${name}`).join(', ')}], subjects: 9, sentences: 1}`;
const ablated = (layers: string) => [
  'samples.limit=24',
  `source.layers=${layers}`,
  `factors.layers.all.target.layers=${layers}`,
];
const grid = (layers: string) => [`source.layers=${layers}`, `target.layers=${layers}`];

/** Variants of factors, the best first: what each comes to, and how it differs from the first levels. */
const ranked = (metric: string, layers: string) => ({
  title: `${metric}, mean over source layers${layers}, with 95 % intervals; the best first`,
  sql: `SELECT place, replace(variant, '|', '/') AS variant, printf('%.2f [%.2f, %.2f]', value, ci_low, ci_high) AS "${metric}",
    CASE WHEN difference IS NULL THEN 'the first levels'
      ELSE printf('%+.2f [%+.2f, %+.2f]', difference, difference_low, difference_high) END AS "difference from the first levels"
  FROM ranking WHERE run_id = :run AND name = '${metric}' ORDER BY place, variant`,
});
const chosenOnHalf = (metric: string) => ({
  title: 'the best of them, chosen on the samples at even places and tried on the others',
  sql: `SELECT chosen AS variant, samples, printf('%.2f [%.2f, %.2f]', value, ci_low, ci_high) AS "${metric}",
    coalesce(printf('%+.2f [%+.2f, %+.2f]', difference, difference_low, difference_high), '') AS "difference from the first levels"
  FROM choice WHERE run_id = :run AND name = '${metric}' AND variant = '' AND tried_on = 'odd'`,
});

const published: readonly Published[] = [
  {
    name: 'next-token',
    models: { [smollm2!]: ['samples.limit=40'], [gemma!]: ['samples.limit=40'] },
    tables: [
      {
        title: 'precision@1 by layer, with 95 % intervals',
        sql: `SELECT source_layer AS layer, ${[
          'token-identity',
          'logit-lens',
          'affine-lens',
          'affine-lens-as-released',
        ]
          .map(
            (variant) =>
              `max(CASE WHEN variant = '${variant}' AND control = 'none' THEN printf('%.2f [%.2f, %.2f]', value, ci_low, ci_high) END) AS "${variant}"`,
          )
          .join(', ')},
          max(CASE WHEN variant = 'token-identity' AND control = 'random' THEN printf('%.2f', value) END) AS "random vector",
          max(CASE WHEN variant = 'token-identity' AND control = 'shuffled' THEN printf('%.2f', value) END) AS "other state"
        FROM metric WHERE run_id = :run AND name = 'precision-at-1' AND "group" = '' AND source_layer % 2 = 1
        GROUP BY source_layer ORDER BY source_layer`,
      },
    ],
    pictures: ['curve-precision-at-1'],
  },
  {
    name: 'attribute-extraction',
    models: {
      [smollm2!]: [someFacts, 'reading.tokens=10', ...grid('[1, 6, 11, 16, 21, 26]')],
      [gemma!]: [someFacts, 'reading.tokens=10', ...grid('[1, 4, 7, 10, 13, 16]')],
    },
    tables: [
      {
        title:
          'accuracy, mean ± sd over source layers; a sample counts where some target layer succeeds (the picture: of the facts that the model knows)',
        sql: `SELECT "group" AS relation, max(samples) AS N, max(known_samples) AS known,
          ${(
            [
              ['answer-found', 'none', 'Patchscope'],
              ['answer-found', 'random', 'random vector'],
              ['answer-found', 'shuffled', 'other state'],
              ['probe', 'none', 'probe'],
            ] as const
          )
            .map(
              ([name, control, title]) =>
                `max(CASE WHEN name = '${name}' AND control = '${control}' THEN printf('%.2f ± %.2f', mean, sd) END) AS "${title}"`,
            )
            .join(', ')}
        FROM accuracy WHERE run_id = :run AND variant = 'patched' GROUP BY "group" ORDER BY "group"`,
      },
    ],
    pictures: ['accuracy-bars-answer-found'],
  },
  {
    name: 'entity-resolution',
    models: {
      [smollm2!]: ['samples={data: entities, from: 45, limit: 32}'],
      [gemma!]: ['samples={data: entities, from: 45, limit: 32}'],
    },
    tables: [
      {
        title: 'ROUGE-L of the cropped text by layer, with 95 % intervals',
        sql: `SELECT source_layer AS layer, ${['popular', 'rare']
          .flatMap((group) => [
            `max(CASE WHEN "group" = '${group}' AND control = 'none' THEN printf('%.2f [%.2f, %.2f]', value, ci_low, ci_high) END) AS ${group}`,
            `max(CASE WHEN "group" = '${group}' AND control = 'shuffled' THEN printf('%.2f', value) END) AS "${group}, other state"`,
          ])
          .join(', ')}
        FROM metric WHERE run_id = :run AND name = 'rouge-l-cropped' AND source_layer IS NOT NULL
        GROUP BY source_layer ORDER BY source_layer`,
      },
    ],
    pictures: ['group-curve-rouge-l-cropped'],
  },
  {
    name: 'mapping-sweep',
    models: { [smollm2!]: ['samples.limit=40', 'source.layers=[1, 6, 11, 16, 21, 26]'] },
    tables: [
      {
        title:
          'precision@1 behind the last layer by source layer, and beyond the state of another sample at the same layers (all layers together), with 95 % intervals; r2 is of held-out pairs',
        sql: `SELECT grid.variant AS mapping, parameters, pairs, printf('%.2f', r2) AS r2, ${[1, 11, 21, 26]
          .map(
            (layer) =>
              `max(CASE WHEN grid.source_layer = ${layer} THEN printf('%.2f [%.2f, %.2f]', grid.value, grid.ci_low, grid.ci_high) END) AS "layer ${layer}"`,
          )
          .join(', ')},
          printf('%.2f [%.2f, %.2f]', effect.value, effect.ci_low, effect.ci_high) AS "beyond another state"
        FROM layer_grid AS grid
        JOIN mapping_fit ON mapping_fit.mapping = grid.mapping
        JOIN effect ON effect.run_id = grid.run_id AND effect.variant = grid.variant AND effect.name = grid.name
          AND effect.control = 'shuffled' AND effect."group" = '' AND effect.source_layer IS NULL AND effect.target_layer IS NULL
        WHERE grid.run_id = :run AND grid.name = 'precision-at-1' AND grid.control = 'none'
        GROUP BY grid.variant ORDER BY parameters`,
      },
    ],
    pictures: [],
  },
  {
    name: 'cross-model',
    namesItsModels: true,
    models: { [smollm2!]: ['samples.limit=40'] },
    tables: [
      {
        title:
          "precision@1 against the source model's own next token, by layers, with 95 % intervals; unpatched is what the target prompt alone gives",
        sql: `SELECT variant, coalesce(source_layer, 'unpatched') AS "source layer", ${[0, 6, 12, 17]
          .map(
            (layer) =>
              `max(CASE WHEN target_layer = ${layer} OR target_layer IS NULL THEN printf('%.2f [%.2f, %.2f]', value, ci_low, ci_high) END) AS "into layer ${layer}"`,
          )
          .join(', ')}
        FROM layer_grid WHERE run_id = :run AND name = 'precision-at-1' AND control IN ('none', 'unpatched')
        GROUP BY variant, source_layer ORDER BY variant, source_layer`,
      },
      {
        title: 'what the state adds to each control, all source layers together, with 95 % intervals',
        sql: `SELECT variant, control, ${[0, 6, 12, 17]
          .map(
            (layer) =>
              `max(CASE WHEN target_layer = ${layer} THEN printf('%.2f [%.2f, %.2f]', value, ci_low, ci_high) END) AS "into layer ${layer}"`,
          )
          .join(', ')}
        FROM effect WHERE run_id = :run AND name = 'precision-at-1' AND "group" = '' AND source_layer IS NULL
        GROUP BY variant, control ORDER BY variant, control`,
      },
    ],
    pictures: [],
  },
  {
    name: 'prompt-ablation',
    models: {
      [smollm2!]: ['samples.limit=40', 'source.layers=[14, 18, 22, 26]'],
      [gemma!]: ['samples.limit=40', 'source.layers=[6, 9, 12, 15]'],
    },
    tables: [ranked('precision-at-1', ', each into itself'), chosenOnHalf('precision-at-1')],
    pictures: [],
  },
  {
    name: 'ablation',
    models: {
      [smollm2!]: ablated('[10, 16, 22]'),
      [gemma!]: ablated('[5, 9, 13]'),
    },
    tables: [
      ranked('precision-at-1', ', each into the target layer that is best for the other half of the samples'),
      chosenOnHalf('precision-at-1'),
    ],
    pictures: [],
  },
];

/** Its model, and how it was run. */
const facts = `SELECT model.name || ', ' || model.quantization
    || CASE WHEN target.id <> model.id THEN ' into ' || target.name || ', ' || target.quantization ELSE '' END,
  run.cells_planned || ' cells', 'seed ' || run.seed, 'llama.cpp ' || run.llama_cpp, run.backend || ', ' || run.threads || ' threads',
  'model sha256 ' || substr(model.sha256, 1, 12)
    || CASE WHEN target.id <> model.id THEN ' and ' || substr(target.sha256, 1, 12) ELSE '' END,
  substr(run.started_at, 1, 10)
FROM run JOIN model ON model.id = run.source_model_id JOIN model AS target ON target.id = run.target_model_id
WHERE run.id = :run`;

fs.mkdirSync(results, { recursive: true });
const chosen = published.filter(({ name }) => names.length === 0 || names.includes(name));
if (chosen.length === 0) throw new Error(`None of ${names.join(', ')} is published.`);
for (const one of chosen) publish(one);

function publish({ name, models, namesItsModels, tables, pictures }: Published): void {
  const parts = [`# ${name}\n\nMade by \`npm run results\`.\n`];
  for (const [model, settings] of Object.entries(models)) {
    const set = settings.flatMap((setting) => ['--set', setting]);
    const named = namesItsModels ? [] : ['-m', model];
    const run = runOf(name, model, [...named, ...set]);
    const asked = query(db, facts.replaceAll(':run', `${run}`));
    parts.push(`## ${asked.rows[0]![0]}\n`);
    const shown = [...named, ...set.map((word) => (word === '--set' ? word : `'${word}'`))].join(' ');
    parts.push(`\`\`\`sh\nnpx patchscopes run ${name} ${shown}\n\`\`\`\n`);
    parts.push(`${asked.rows[0]!.slice(1).join('; ')}.\n`);
    for (const { title, sql } of tables) {
      parts.push(`${title[0]!.toUpperCase()}${title.slice(1)}:\n`, table(sql.replaceAll(':run', `${run}`)));
    }
    for (const picture of picturesOf(run, pictures, `${name}-${model}`)) parts.push(picture);
  }
  fs.writeFileSync(path.join(results, `${name}.md`), `${parts.join('\n').trimEnd()}\n`);
}

/** The run's id; a run that is there and whole is taken. */
function runOf(name: string, model: string, options: readonly string[]): number {
  const command = ['run', name, ...options];
  const found = fs.existsSync(db)
    ? query(
        db,
        `SELECT run.id, run.status FROM run JOIN model ON model.id = run.source_model_id
        WHERE run.name = '${name}' AND model.path GLOB '*${model}*' ORDER BY run.id DESC LIMIT 1`,
      ).rows[0]
    : undefined;
  if (found?.[1] !== 'done') {
    cli([...command, ...further, '--db', db, ...(found === undefined ? [] : ['--resume'])]);
    return runOf(name, model, options);
  }
  return Number(found[0]);
}

function table(sql: string): string {
  const { columns, rows } = query(db, sql);
  const line = (cells: readonly unknown[]) => `| ${cells.map((cell) => cell ?? '').join(' | ')} |`;
  return [line(columns), line(columns.map(() => '---')), ...rows.map(line), ''].join('\n');
}

/** Copied beside the tables, on white: a picture alone does not follow the reader's colours. */
function picturesOf(run: number, names: readonly string[], of: string): string[] {
  if (names.length === 0) return [];
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'published-'));
  const svg = path.join(folder, 'svg');
  cli(['report', `${run}`, '--db', db, '-o', path.join(folder, 'report.html'), '--svg', svg]);
  const links = names.map((name) => {
    const picture = fs.readFileSync(path.join(svg, `${name}.svg`), 'utf8');
    const file = `${of}-${name}.svg`;
    fs.writeFileSync(path.join(results, file), picture.replace('<svg ', '<svg style="background: white" '));
    return `![${name} of ${of}](${file})\n`;
  });
  fs.rmSync(folder, { recursive: true });
  return links;
}

function cli(args: readonly string[]): void {
  const { status } = spawnSync(process.execPath, [path.join(root, 'dist', 'cli.js'), ...args], {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (status !== 0) process.exit(status ?? 1);
}
