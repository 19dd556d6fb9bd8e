/** How the blocks of each tiny decoder add what they add, and so which sites they have. */
import type { Site } from '../src/patchscope.js';
import type { ModelKind } from './fixtures/models.js';

export type BlockKind = keyof typeof sitesOf;

/** Sites beside the input and the output, which every block has. */
export const sitesOf = {
  'attention, then MLP': ['resid_mid', 'attn_out', 'mlp_out'],
  'attention and MLP side by side': ['attn_out', 'mlp_out'],
  'attention beside a scan, then MLP': ['resid_mid', 'attn_out', 'mlp_out'],
  'a scan, then MLP': ['resid_mid', 'mlp_out'],
  'time mix, then channel mix': ['resid_mid'],
  'a scan': [],
} as const satisfies Record<string, readonly Site[]>;

const others: { readonly [K in ModelKind]?: BlockKind | readonly BlockKind[] } = {
  gptneox: 'attention and MLP side by side',
  'stablelm-parallel': 'attention and MLP side by side',
  phi2: 'attention and MLP side by side',
  falcon: 'attention and MLP side by side',
  'falcon-two-norms': 'attention and MLP side by side',
  'command-r': 'attention and MLP side by side',
  cohere2: 'attention and MLP side by side',
  mamba: 'a scan',
  mamba2: 'a scan',
  rwkv6: 'time mix, then channel mix',
  rwkv7: 'time mix, then channel mix',
  jamba: ['a scan, then MLP', 'attention, then MLP', 'a scan, then MLP'],
  lfm2: ['a scan, then MLP', 'attention, then MLP', 'a scan, then MLP'],
  granitehybrid: ['a scan, then MLP', 'attention, then MLP', 'a scan, then MLP'],
  qwen3next: ['a scan, then MLP', 'attention, then MLP', 'a scan, then MLP', 'attention, then MLP'],
  'falcon-h1': 'attention beside a scan, then MLP',
};

export function blockKind(kind: ModelKind, layer: number): BlockKind {
  const own = others[kind] ?? 'attention, then MLP';
  return typeof own === 'string' ? own : own[layer]!;
}
