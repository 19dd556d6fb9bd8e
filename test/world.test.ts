/** The meaning of a patch, on a model whose inside is known: see world/README.md for what it promises. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { after, before, type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Engine, type Layer, openEngine, resolveModel } from '../src/index.js';
import { device } from './device.js';
import { cacheLayouts, siteOf, withLayout } from './support.js';

interface Entity {
  readonly first: string;
  readonly last: string;
  readonly friend: number;
  readonly friendTrained: boolean;
  readonly rival: number;
  readonly word: string;
  readonly city: string;
  readonly job: string;
  readonly colour: string;
  readonly pet: string;
}

const folder = new URL('world/', import.meta.url);
const file = fileURLToPath(new URL('world.gguf', folder));
const world = JSON.parse(fs.readFileSync(new URL('world.json', folder), 'utf8')) as {
  sha256: string;
  entities: Entity[];
  bounds: { lastName: number };
  prompts: { tokenIdentity: string; tokenIdentitySources: string[] };
  reference: {
    grid: number[][];
    tokenIdentity: number[];
    logitLens: number[];
    plain: { prompt: string; ids: number[]; top: [number, number][] }[];
    patched: {
      sourceIds: number[];
      sourcePosition: number;
      sourceLayer: Layer;
      targetIds: number[];
      targetPosition: number;
      targetLayer: Layer;
      top: [number, number][];
    }[];
  };
};
const relations = ['city', 'job', 'colour', 'pet'] as const;
const layers: readonly Layer[] = ['embed', 0, 1, 2, 3, 4, 5];
const early: readonly Layer[] = ['embed', 0];
const readable: readonly Layer[] = [0, 1, 2, 3, 4];

let opened: Engine;
let engine: Engine;
before(async () => {
  opened = await openEngine(await resolveModel(file), { threads: 1, ...device.options });
});
after(() => opened.close());

/** One test for each layout of the cache. */
function inBothLayouts(sentence: string, check: (t: TestContext) => Promise<void>): void {
  for (const layout of cacheLayouts) {
    test(layout === 'unified' ? sentence : `${layout}: ${sentence}`, async (t) => {
      engine = withLayout(opened, layout);
      await check(t);
    });
  }
}

const ids = (text: string) => engine.tokenizer.tokenize(text, { bos: true, special: false });
const answer = (word: string) => {
  const [first, ...rest] = engine.tokenizer.tokenize(word, { bos: false, special: false });
  return rest.length === 0 ? first! : assert.fail(`${word} is not one token`);
};
const nameOf = ({ first, last }: Entity) => `${first} ${last}`;

/** States of the last token of each prompt, by layer. */
async function statesOf(prompts: readonly string[]): Promise<(layer: Layer, prompt: number) => Float32Array> {
  const captured = await engine.capture(
    prompts.map((prompt) => {
      const tokenIds = ids(prompt);
      const tokenIndex = tokenIds.length - 1;
      return { tokenIds, points: layers.map((layer) => ({ site: siteOf(layer), layer, tokenIndex })) };
    }),
  );
  return (layer, prompt) => {
    const result = captured[prompt]!;
    assert.equal(result.status, 'ok');
    return result.status === 'ok' ? result.states[layers.indexOf(layer)]! : assert.fail();
  };
}

interface Question {
  readonly target: string;
  readonly position: number;
  readonly vector: Float32Array;
}

/** The most probable next token of each patched prompt. */
async function ask(questions: readonly Question[], layer: Layer): Promise<number[]> {
  const results = await engine.patch(
    questions.map(({ target, position, vector }) => ({
      tokenIds: ids(target),
      edits: [{ site: siteOf(layer), layer, tokenIndex: position, vector }],
    })),
    { topK: 1, maxTokens: 1 },
  );
  return results.map((result) => (result.status === 'ok' ? result.tokenIds[0]! : assert.fail(result.error)));
}

/** Share of `the R of x is` questions about all people that are answered by the value of `truth`. */
async function share(
  vectorOf: (person: number, layer: Layer) => Float32Array,
  sourceLayer: Layer,
  targetLayer: Layer,
  truth: (person: Entity) => Entity = (person) => person,
  people: readonly number[] = world.entities.map((_, i) => i),
  target: (relation: string, person: Entity) => { text: string; position: number } = (relation) => ({
    text: `the ${relation} of x is`,
    position: 4,
  }),
): Promise<number> {
  const questions = people.flatMap((person) =>
    relations.map((relation) => {
      const { text, position } = target(relation, world.entities[person]!);
      return { target: text, position, vector: vectorOf(person, sourceLayer) };
    }),
  );
  const answers = await ask(questions, targetLayer);
  const right = answers.filter((tokenId, i) => {
    const person = truth(world.entities[people[Math.floor(i / relations.length)]!]!);
    return tokenId === answer(person[relations[i % relations.length]!]);
  });
  return right.length / answers.length;
}

test('the known-answers model is the one that was measured', () => {
  assert.equal(createHash('sha256').update(fs.readFileSync(file)).digest('hex'), world.sha256);
});

inBothLayouts('plain and patched readings are those of PyTorch', async () => {
  for (const { prompt, ids: expected, top } of world.reference.plain) {
    assert.deepEqual(ids(prompt), expected);
    const [result] = await engine.patch([{ tokenIds: expected, edits: [] }], { topK: 5, maxTokens: 1 });
    close(result!, top);
  }
  for (const { sourceIds, sourcePosition, sourceLayer, targetIds, targetPosition, targetLayer, top } of world
    .reference.patched) {
    const [captured] = await engine.capture([
      {
        tokenIds: sourceIds,
        points: [{ site: siteOf(sourceLayer), layer: sourceLayer, tokenIndex: sourcePosition }],
      },
    ]);
    assert.equal(captured!.status, 'ok');
    const vector = captured!.status === 'ok' ? captured!.states[0]! : assert.fail();
    const edit = { site: siteOf(targetLayer), layer: targetLayer, tokenIndex: targetPosition, vector };
    const [result] = await engine.patch([{ tokenIds: targetIds, edits: [edit] }], { topK: 5, maxTokens: 1 });
    close(result!, top);
  }
});

function close(result: Awaited<ReturnType<Engine['patch']>>[number], top: readonly [number, number][]): void {
  const read = result.status === 'ok' ? result.steps[0]!.top : assert.fail(result.error);
  assert.deepEqual(
    read.map(({ tokenId }) => tokenId),
    top.map(([id]) => id),
  );
  for (const [i, [, logprob]] of top.entries()) assert.ok(Math.abs(read[i]!.logprob - logprob) < 0.02);
}

inBothLayouts("a person's state answers questions about that person at early target layers", async () => {
  const state = await statesOf(world.entities.map((person) => `i saw ${nameOf(person)}`));
  for (const targetLayer of early) {
    for (const sourceLayer of readable) {
      const right = await share((person, layer) => state(layer, person), sourceLayer, targetLayer);
      assert.ok(right >= 0.99, `source layer ${sourceLayer}, target layer ${targetLayer}: ${right}`);
    }
  }
});

inBothLayouts('what is not in the embedding is not read from it', async () => {
  const state = await statesOf(world.entities.map((person) => `i saw ${nameOf(person)}`));
  for (const targetLayer of layers) {
    const right = await share((person, layer) => state(layer, person), 'embed', targetLayer);
    assert.ok(right <= world.bounds.lastName, `target layer ${targetLayer}: ${right}`);
  }
});

inBothLayouts('a patch at the last layer before the last token changes no bit of the answer', async () => {
  const state = await statesOf(world.entities.slice(0, 8).map((person) => `i saw ${nameOf(person)}`));
  const tokenIds = ids('the city of x is');
  const reading = { topK: 1, maxTokens: 1, logits: true };
  for (let person = 0; person < 8; person++) {
    const edit = { site: 'resid_out' as const, layer: 5, tokenIndex: 4, vector: state(3, person) };
    // the unpatched run reads the same position too, so that both share the same prefix
    const [patched] = await engine.patch([{ tokenIds, edits: [edit] }], { ...reading, tokenIndexes: [4] });
    const [plain] = await engine.patch([{ tokenIds, edits: [] }], { ...reading, tokenIndexes: [4] });
    if (patched?.status !== 'ok' || plain?.status !== 'ok') return assert.fail();
    assert.deepEqual(patched.steps[0]!.logits, plain.steps[0]!.logits);
    assert.notDeepEqual(patched.positions[0]!.logits, plain.positions[0]!.logits);
  }
});

inBothLayouts(
  'a patch before the facts are read overrules the name in the prompt, a later one does not',
  async () => {
    const state = await statesOf(world.entities.map((person) => `i saw ${nameOf(person)}`));
    const rivalPrompt = (relation: string, person: Entity) => ({
      text: `the ${relation} of ${nameOf(world.entities[person.rival]!)} is`,
      position: 5,
    });
    for (const sourceLayer of [0, 2, 4] as const) {
      for (const targetLayer of early) {
        const source = await share(
          (p, layer) => state(layer, p),
          sourceLayer,
          targetLayer,
          undefined,
          undefined,
          rivalPrompt,
        );
        assert.ok(source >= 0.9, `source ${sourceLayer}, target ${targetLayer}: ${source}`);
      }
      for (const targetLayer of [3, 4, 5] as const) {
        const rival = (person: Entity) => world.entities[person.rival]!;
        const target = await share(
          (p, layer) => state(layer, p),
          sourceLayer,
          targetLayer,
          rival,
          undefined,
          rivalPrompt,
        );
        assert.ok(target >= 0.95, `source ${sourceLayer}, target ${targetLayer}: ${target}`);
      }
    }
  },
);

inBothLayouts('controls stay at chance', async () => {
  const named = await statesOf(world.entities.map((person) => `i saw ${nameOf(person)}`));
  const words = await statesOf(world.entities.map(({ word }) => `i saw ${word}`));
  const firsts = await statesOf(world.entities.map(({ first }) => `i saw ${first}`));
  const count = world.entities.length;
  const controls: [string, number, (person: number, layer: Layer) => Float32Array][] = [
    ['a random vector of the same norm', 0.25, (person, layer) => randomLike(named(layer, person), person)],
    ['a word that names nobody', 0.25, (person, layer) => words(layer, person)],
    ['another person', 0.25, (person, layer) => named(layer, (person + 1) % count)],
    ['the first name alone', 0.35, (person, layer) => firsts(layer, person)],
  ];
  for (const [name, bound, vectorOf] of controls) {
    for (const targetLayer of early) {
      const right = await share(vectorOf, 2, targetLayer);
      assert.ok(right <= bound, `${name}, target layer ${targetLayer}: ${right}`);
    }
  }
});

inBothLayouts(
  'two hops fail in one prompt and succeed by a patch, for friends never seen in training too',
  async () => {
    const oneHop = await engine.patch(
      world.entities.flatMap((person) =>
        relations.map((relation) => ({
          tokenIds: ids(`the ${relation} of the friend of ${nameOf(person)} is`),
          edits: [],
        })),
      ),
      { topK: 1, maxTokens: 1 },
    );
    const friendOf = (person: Entity) => world.entities[person.friend]!;
    const guessed = oneHop.filter((result, i) => {
      const friend = friendOf(world.entities[Math.floor(i / relations.length)]!);
      return (
        result.status === 'ok' && result.tokenIds[0] === answer(friend[relations[i % relations.length]!])
      );
    });
    assert.ok(guessed.length / oneHop.length <= 0.02);

    const state = await statesOf(
      world.entities.map((person) => `the friend of ${nameOf(person)} is ${nameOf(friendOf(person))}`),
    );
    for (const trained of [true, false]) {
      const people = world.entities.flatMap(({ friendTrained }, i) => (friendTrained === trained ? [i] : []));
      for (const targetLayer of early) {
        const right = await share((person, layer) => state(layer, person), 2, targetLayer, friendOf, people);
        assert.ok(
          right >= 0.9,
          `friends ${trained ? 'trained' : 'never trained'}, target layer ${targetLayer}: ${right}`,
        );
      }
    }
  },
);

inBothLayouts('token identity and logit lens find the next token as often as PyTorch found', async () => {
  const prompts = world.prompts.tokenIdentitySources;
  const plain = await engine.patch(
    prompts.map((prompt) => ({ tokenIds: ids(prompt), edits: [] })),
    { topK: 1, maxTokens: 1 },
  );
  const own = plain.map((result) => (result.status === 'ok' ? result.tokenIds[0] : assert.fail()));
  const state = await statesOf(prompts);
  for (const [row, layer] of layers.entries()) {
    const identity = await ask(
      prompts.map((_, i) => ({ target: world.prompts.tokenIdentity, position: 13, vector: state(layer, i) })),
      layer,
    );
    const all = new Float32Array(prompts.length * engine.record.embeddingSize);
    prompts.forEach((_, i) => {
      all.set(state(layer, i), i * engine.record.embeddingSize);
    });
    const lens = await engine.lens(all, { topK: 1 });
    const lensIds = lens.map((result) => (result.status === 'ok' ? result.top[0]!.tokenId : -1));
    const rate = (tokenIds: readonly number[]) =>
      tokenIds.filter((id, i) => id === own[i]).length / own.length;
    assert.ok(
      Math.abs(rate(identity) - world.reference.tokenIdentity[row]!) <= 0.05,
      `identity, layer ${layer}`,
    );
    assert.ok(Math.abs(rate(lensIds) - world.reference.logitLens[row]!) <= 0.05, `lens, layer ${layer}`);
  }
});

/** Gaussian, of the norm of `state`; the same for the same seed. */
function randomLike(state: Float32Array, seed: number): Float32Array {
  let a = seed + 1;
  const uniform = () => {
    a = (a * 48271) % 2147483647;
    return a / 2147483647;
  };
  const vector = state.map(() => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
  const norm = (v: Float32Array) => Math.hypot(...v);
  const factor = norm(state) / norm(vector);
  return vector.map((x) => x * factor);
}
