/** The words that llama.cpp knows: keys and tensors as its library writes them, architectures as its loader does. */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const build = fileURLToPath(new URL('../../build/', import.meta.url));

interface Built {
  readonly variants: readonly { readonly variant: string; readonly libraries: string }[];
}

function libraryText(): string {
  const { variants } = JSON.parse(fs.readFileSync(path.join(build, 'built.json'), 'utf8')) as Built;
  const folder = path.resolve(build, variants.find(({ variant }) => variant === 'cpu')!.libraries);
  const name = fs.readdirSync(folder).find((file) => /^libllama\./.test(file))!;
  return fs.readFileSync(path.join(folder, name), 'latin1');
}

const text = libraryText();
const found = (pattern: RegExp): string[] => [
  ...new Set([...text.matchAll(pattern)].map(([, word]) => word!)),
];

/** Without the architecture that stands before them. */
export const ownKeys = found(/\0%s\.([a-z][a-z0-9_.]+)(?=\0)/g);
export const tokenizerKeys = found(/\0(tokenizer\.[a-z][a-z0-9_.]+)(?=\0)/g);
/** `%d` stands for the block. */
export const blockTensors = found(/\0(blk\.%d\.[a-z][a-z0-9_.]+)(?=\0)/g);

export const architectures =
  'llama llama4 deci falcon grok gpt2 gptj gptneox mpt baichuan starcoder refact bert modern-bert nomic-bert jina-bert-v2 bloom stablelm qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3next qwen3vl qwen35 phi2 phi3 phimoe plamo plamo2 plamo3 codeshell orion internlm2 minicpm minicpm3 gemma gemma2 gemma3 gemma3n gemma4 gemma-embedding starcoder2 mamba mamba2 jamba falcon-h1 xverse command-r cohere2 dbrx olmo olmo2 olmoe openelm arctic deepseek deepseek2 deepseek32 chatglm glm4 glm4moe bitnet t5 t5encoder jais nemotron nemotron_h exaone exaone4 exaone-moe rwkv6 rwkv6qwen2 rwkv7 arwkv7 granite granitemoe granitehybrid chameleon wavtokenizer-dec plm bailingmoe bailingmoe2 dots1 arcee afmoe ernie4_5 hunyuan-moe hunyuan-dense smollm3 gpt-oss lfm2 lfm2moe dream smallthinker llada llada-moe seed_oss grovemoe apertus minimax-m2 cogvlm rnd1 pangu-embedded mistral3 mistral4 mimo2 step35 llama-embed kimi-linear clip'.split(
    ' ',
  );
