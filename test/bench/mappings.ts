/**
 * What mappings cost: `npm run bench:mappings`, or `-- solve`, `-- pairs`, `-- apply` for one measure. The machine
 * must have nothing else to do. Each runs in a process of its own, so that its peak of memory is its own.
 */
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  ChunkRunner,
  type Experiment,
  fitMapping,
  type Mapping,
  makePlan,
  openEngine,
  parsePosition,
  readMapping,
  resolveModel,
  run,
} from '../../src/index.js';
import { type Fit, makeFitter } from '../../src/mapping/fit.js';
import { applyMap } from '../../src/mapping/maps.js';
import { Quality } from '../../src/mapping/quality.js';
import { gaussians } from '../../src/random.js';
import { middle } from './comparison.js';
import { modelName } from './workloads.js';

const THREADS = Math.min(2, os.availableParallelism());
const ROUNDS = 5;

/** Some rows out of a pool of numbers, others for each `turn`. */
const pool = gaussians(6_000_011, 1);
function rowsOf(count: number, width: number, turn: number): Float32Array {
  const begin = (turn * 65_537) % (pool.length - count * width);
  return pool.subarray(begin, begin + count * width);
}

const measures = {
  /** Width 4,096: sums of some pairs, the system of 4,097, memory beside the rows. */
  async solve() {
    const [width, block, blocks] = [4096, 1024, 8];
    const fitter = makeFitter(taskOf(width, 1));
    const [adding, solving] = [new Watch(), new Watch()];
    for (let turn = 0; turn < blocks; turn++) {
      await adding.time(() => fitter.add(rowsOf(block, width, turn), [rowsOf(block, width, turn + 1000)]));
    }
    await solving.time(() => fitter.solve());
    const share = (block * blocks) / 100_000;
    say(`width 4096: the sums of 100,000 pairs ${adding.text(share)} (measured on ${block * blocks})`);
    say(`width 4096: solved in ${solving.text()} (wanted: below 40 s)`);
    say(`peak of memory: ${megabytes()} MB (wanted: below 1000)`);
  },

  /** 10 x 10 layers, width 576, 10,000 pairs of which a tenth is held out. */
  async pairs() {
    const [width, block, layers] = [576, 500, 10];
    const [adding, solving, judging] = [new Watch(), new Watch(), new Watch()];
    for (let source = 0; source < layers; source++) {
      const fitter = makeFitter(taskOf(width, layers));
      const part = (turn: number) => ({
        x: rowsOf(block, width, source * 1000 + turn),
        ys: Array.from({ length: layers }, (_, i) => rowsOf(block, width, 20_000 + i * 100 + turn)),
      });
      for (let turn = 0; turn < 18; turn++) {
        const { x, ys } = part(turn);
        await adding.time(() => fitter.add(x, ys));
      }
      let fits: Fit[] = [];
      await solving.time(async () => {
        fits = await fitter.solve();
      });
      // judged on the tenth that is held out, and on as many others
      for (const turn of [0, 1, 18, 19]) {
        const { x, ys } = part(turn);
        await judging.time(async () => {
          for (const [i, { map }] of fits.entries()) {
            const mapped = await applyMap({ kind: 'affine' }, map, x, width, THREADS);
            new Quality(width).add(mapped, ys[i]!);
          }
        });
      }
    }
    say(`100 maps of width 576 from 10,000 pairs: sums ${adding.text()}`);
    say(`  solved ${solving.text()}`);
    say(`  judged ${judging.text()}`);
    const total = adding.seconds + solving.seconds + judging.seconds;
    say(`  together ${total.toFixed(1)} s (wanted: below 90 s beside the capture)`);
  },

  /** Cells that generate through affine maps, against the same cells without. */
  async apply() {
    const engine = await openEngine(await resolveModel(modelName), { gpu: 'off', threads: 1 });
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'bench-'));
    try {
      const output = path.join(folder, 'affine.safetensors');
      await fitMapping(experiment({ kind: 'identity' }), engine, output, {
        ...{ kind: 'affine', ridge: 0.1, positions: 'all' },
      });
      const mapping = readMapping(output);
      const work = (used: Mapping) => async () => {
        const plan = makePlan(experiment(used), engine.tokenizer, engine.record);
        for await (const _ of run(plan, new ChunkRunner(plan, engine)));
      };
      const rounds = Array.from({ length: ROUNDS + 1 }, () => ({ plain: new Watch(), mapped: new Watch() }));
      // in turn, and each first as often: the first round only warms up
      for (const [round, { plain, mapped }] of rounds.entries()) {
        const both = [() => plain.time(work({ kind: 'identity' })), () => mapped.time(work(mapping))];
        for (const one of round % 2 === 0 ? both : both.reverse()) await one();
      }
      const costs = (of: (watch: Watch) => number) => {
        const ratios = rounds.slice(1).map(({ plain, mapped }) => of(mapped) / of(plain));
        const [least, most] = [Math.min(...ratios), Math.max(...ratios)];
        return [middle(ratios.sort((a, b) => a - b)), least, most].map((ratio) => ratio.toFixed(3));
      };
      for (const [unit, of] of [
        ['by the clock', (watch: Watch) => watch.seconds],
        ['of processors', (watch: Watch) => watch.processors],
      ] as const) {
        const [median, least, most] = costs(of);
        say(
          `cells of 20 tokens through affine maps : without, time ${unit}: ${median} (${least} to ${most}, wanted: below 1.05)`,
        );
      }
    } finally {
      fs.rmSync(folder, { recursive: true });
      await engine.close();
    }
  },
};

function taskOf(width: number, targets: number): Parameters<typeof makeFitter>[0] {
  const model = { width };
  return {
    ...{ kind: 'affine', options: {}, ridge: 0, seed: 0 },
    ...{ source: model, target: model, targets, threads: THREADS },
  };
}

function experiment(mapping: Mapping): Experiment {
  const at = (text: string) => ({ prompt: { kind: 'text' as const, text }, position: parsePosition('-1') });
  return {
    name: 'mapped',
    samples: ['Paris is the capital of', 'The opposite of hot is', 'Two and two make', 'The sky is'].map(
      (text, i) => ({
        name: `${i}`,
        source: at(text),
        target: at('cat -> cat; 135 -> 135; hello -> hello; ?'),
      }),
    ),
    sourceLayers: 'all',
    targetLayers: 'same',
    mapping,
    reading: { topK: 5, maxTokens: 20, stop: [] },
    seed: 0,
  };
}

/** Adds up the time that work takes by the clock, and that of all processors. */
class Watch {
  seconds = 0;
  processors = 0;

  async time(work: () => Promise<unknown>): Promise<void> {
    const [begin, used] = [performance.now(), process.cpuUsage()];
    await work();
    this.seconds += (performance.now() - begin) / 1000;
    const { user, system } = process.cpuUsage(used);
    this.processors += (user + system) / 1e6;
  }

  /** @param share of the whole that was measured. */
  text(share = 1): string {
    const [clock, processors] = [this.seconds, this.processors].map((value) => (value / share).toFixed(1));
    return `${clock} s (${processors} s of processors)`;
  }
}

const megabytes = () => Math.round(process.resourceUsage().maxRSS / 1000);

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

const asked = process.argv[2];
if (asked !== undefined && asked in measures) await measures[asked as keyof typeof measures]();
else {
  for (const name of Object.keys(measures)) {
    spawnSync(process.execPath, [...process.execArgv, fileURLToPath(import.meta.url), name], {
      stdio: 'inherit',
    });
  }
}
