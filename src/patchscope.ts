/**
 * The words of the paper (Ghandeharioun et al., ICML 2024, section 3) as types.
 *
 * A source (S, i, M, l) gives a hidden state h; a target (T, i*, f, M*, l*)
 * receives f(h) and is read. Layer l is the output of block l, counted from 0;
 * `embed` is the input of block 0.
 */

export type Layer = number | 'embed';

/** Which half of an encoder-decoder model; any other model is a decoder. */
export const sides = ['encoder', 'decoder'] as const;
export type Side = (typeof sides)[number];

/**
 * Where in a block a state is read or written:
 *
 * - `embed`: the input of block 0; it has no layer of its own
 * - `resid_mid`: the residual stream between attention (of both kinds, where a decoder has two) and MLP
 * - `attn_out`, `mlp_out`: what attention and MLP add to the residual stream
 * - `resid_out`: the residual stream after the block
 * - `final_norm`: the final norm of the last layer's `resid_out`; it is read, never written, but for an
 *   encoder's, which is what the decoder attends to
 */
export const sites = ['embed', 'resid_mid', 'attn_out', 'mlp_out', 'resid_out', 'final_norm'] as const;
export type Site = (typeof sites)[number];

/**
 * What an edit makes of the state h that it meets, with a vector v and a number alpha:
 *
 * - `replace`: alpha v (alpha is 1 unless told otherwise: the patch of the paper, section 3)
 * - `add`: h + alpha v
 * - `scale`: alpha h; there is no vector
 * - `mix`: alpha v + (1 - alpha) h
 * - `norm-matched-add`: h + alpha |h| v / |v|
 */
export const editOps = ['replace', 'add', 'scale', 'mix', 'norm-matched-add'] as const;
export type EditOp = (typeof editOps)[number];

/**
 * Why an op's alpha can't decay, as the rest of a sentence; null where it can. An alpha on its way to 0 must be an edit
 * on its way to nothing.
 */
export function noDecay(op: EditOp, decay: number): string | null {
  if (decay === 1 || (op !== 'replace' && op !== 'scale')) return null;
  return `${op} with an alpha of 0 makes a state of zeros and so can't decay: take add, mix or norm-matched-add`;
}

/** How tokens are drawn, by llama.cpp's samplers in this order. */
export interface Sampling {
  /** Only the most probable tokens, this many; 0 (default): all. */
  readonly topK?: number;
  /** Of these the most probable ones that together reach this probability; 1 (default): all. */
  readonly topP?: number;
  /** Logits are divided by it. 0 takes the most probable token. */
  readonly temperature: number;
}

/**
 * Tokens that no text may stand for: the model's padding, its end of text, any token, drawn with the experiment's
 * seed for each sample, and the token at the source's position.
 */
export const placeholders = ['padding', 'end', 'random', 'source'] as const;
export type Placeholder = (typeof placeholders)[number];

/** A prompt as text, as token ids that are used exactly as they are, or for a target the source itself. */
export type Prompt =
  | {
      readonly kind: 'text';
      readonly text: string;
      /** Put the model's beginning-of-sequence token first if the model asks for one. Default true. */
      readonly bos?: boolean;
      /** Wrap the text as a user's turn in the model's own chat template. Default false. */
      readonly chat?: boolean;
      /** Read special tokens written in the text as such. Default false: they are plain text. */
      readonly special?: boolean;
      /**
       * Of a target: put padding tokens before the text, behind a beginning-of-sequence token, so that its position
       * is that of the source. They are read like any other token. Default false.
       */
      readonly padded?: boolean;
      /** Of a target: one token more behind the text. */
      readonly placeholder?: Placeholder;
    }
  | { readonly kind: 'tokens'; readonly tokenIds: readonly number[] }
  /** The tokens of the source prompt up to its position: T = S of the paper, read where the state was taken. */
  | { readonly kind: 'source' };

/** A token of a prompt: drawn, by index (negative from the end) or as the last token of a piece of its text. */
export type Position =
  /** Any token but BOS, drawn with the experiment's seed; one draw for each sample. */
  | { readonly kind: 'random' }
  | { readonly kind: 'index'; readonly index: number }
  /** `occurrence` counts from 1; without it the text must occur once. */
  | {
      readonly kind: 'text';
      readonly text: string;
      readonly occurrence?: number;
    }
  /** Of a target: the index that the state came from. */
  | { readonly kind: 'same' }
  /** Of a source: each of these tokens, one after the other, in cells of its own. */
  | { readonly kind: 'each'; readonly spans: readonly Span[] };

/**
 * What a fitted mapping makes of a state v:
 *
 * - `identity`: v; `scale`: a number times v; `mean-difference`: v plus how far the targets' mean is from the sources'
 * - `linear`: W v; `affine`: W v + b; `low-rank`: the same with W of a given rank
 * - `kernel`: W cos(R v + p) + b with random R and p, as many as features, which stands for a Gaussian kernel
 * - `mlp`: W g(U v + c) + b, one hidden layer
 *
 * All but the last minimize the square of what is left of the targets, in their own axes; `mlp` goes down its slope.
 */
export const mappingKinds = [
  'identity',
  'scale',
  'mean-difference',
  'low-rank',
  'linear',
  'affine',
  'kernel',
  'mlp',
] as const;
export type MappingKind = (typeof mappingKinds)[number];

export const activations = ['relu', 'silu'] as const;
export type Activation = (typeof activations)[number];

/** What kinds are told beside the ridge. */
export interface KindOptions {
  /** Of `low-rank`. */
  readonly rank?: number;
  /** Of `kernel`. */
  readonly features?: number;
  /** Of `kernel`: s of exp(-|a - b|^2 / 2 s^2). Default: the median distance of source states, map by map. */
  readonly bandwidth?: number;
  /** Of `mlp`: floats between the layers. */
  readonly hidden?: number;
  readonly activation?: Activation;
  /** How often `mlp` sees each pair. */
  readonly epochs?: number;
  /** Of the first step of `mlp`; it falls to nothing. */
  readonly rate?: number;
}

/** f of the paper. */
export type Mapping = { readonly kind: 'identity' } | FittedMapping | UnfittedMapping;
export type FittedMapping = FileMapping | ChainMapping;

/** How a mapping is fitted. */
export interface MappingFit {
  readonly kind: MappingKind;
  readonly options?: KindOptions;
  /** As in `MapRecord`; default: 0, of a kernel 0.001. */
  readonly ridge?: number;
  /** Share of the prompts that the fit is judged by and not made of; default: 0.1. */
  readonly heldOut?: number;
  /** As in `MappingRecord`; default: `sample`. */
  readonly positions?: MappingRecord['data']['positions'];
  /** Of the states that are mapped to, where it is not the site that is patched. */
  readonly targetSite?: Site;
}

/** One that is fitted on the model at hand before the plan is made, to the places that its cells have. */
export interface UnfittedMapping {
  readonly kind: 'unfitted';
  readonly fit: MappingFit;
  /** Source prompts whose states it is fitted to. */
  readonly prompts: readonly PromptAt[];
}

/** Mappings of which each takes what the one before gives. */
export interface ChainMapping {
  readonly kind: 'chain';
  /** Those of its links. */
  readonly name: string;
  /** Of those of its links. */
  readonly sha256: string;
  readonly links: readonly FileMapping[];
}

/** One that was fitted. */
export interface FileMapping {
  readonly kind: 'file';
  /** The file's, and the first digits of its sha256. */
  readonly name: string;
  readonly path: string;
  readonly sha256: string;
  readonly record: MappingRecord;
}

/** How the maps of a file were fitted, each from one place to another. */
export interface MappingRecord {
  readonly kind: MappingKind;
  /** As they were used: what was not given has its default. */
  readonly options?: KindOptions;
  /** Numbers of one map that follow from the pairs. */
  readonly parameters?: number;
  readonly source: MappedModel;
  readonly target: MappedModel;
  readonly data: {
    readonly experiment: string;
    /** `sample`: those of the samples; `all`: every token but the one a prompt begins with by itself. */
    readonly positions: 'sample' | 'all';
    readonly prompts: BySplit;
    /** Pairs of states. */
    readonly pairs: BySplit;
    /** What the prompts that are held out were drawn with, and what a kind draws. */
    readonly seed: number;
  };
  /** Of weights that were fitted elsewhere: the file they were in. */
  readonly imported?: { readonly file: string; readonly sha256: string };
  readonly maps: readonly MapRecord[];
}

export interface MappedModel {
  readonly sha256: string;
  /** Floats of a hidden state. */
  readonly width: number;
  /** In an encoder-decoder model. */
  readonly side?: Side;
}

export interface BySplit {
  readonly train: number;
  readonly heldOut: number;
}

export interface MapRecord {
  readonly source: { readonly site: Site; readonly layer: Layer };
  readonly target: { readonly site: Site; readonly layer: Layer };
  /** A part of the median sum of squares of a float of the source states; more than was asked for where these did not tell one map. */
  readonly ridge: number;
  /** Of the sums of products of the source states, scaled to a diagonal of ones; null where nothing was solved. */
  readonly condition: number | null;
  /** Of `kernel`. */
  readonly bandwidth?: number;
  /** 1 - |y - f(x)|^2 / |y - mean y|^2, over as many training prompts as are held out; null where none are. */
  readonly r2: Fidelity;
  /** Mean cosine of y and f(x), over the same. */
  readonly cosine: Fidelity;
  /** Mean of |y - f(x)| / |y|, over the same; files of older versions have none. */
  readonly relativeError?: Fidelity;
}

export interface Fidelity {
  readonly train: number | null;
  readonly heldOut: number | null;
}

/** Tokens of a prompt: all of them, those from one index to another (negative from the end), or all that hold a piece of its text. */
export type Span =
  | { readonly kind: 'all' }
  | { readonly kind: 'range'; readonly first: number; readonly last: number }
  | Extract<Position, { readonly kind: 'text' }>;

export interface CutWindow {
  readonly around: number;
}

/** In these layers the tokens `from` do not attend to the earlier ones of the tokens `to`. */
export interface Cut {
  readonly from: readonly Span[];
  readonly to: readonly Span[];
  /** A selector of blocks, or so many of them around the layer that is patched, half of them on either side. */
  readonly layers: string | CutWindow;
  /** Also from each generated token. Default: from the prompt's alone. */
  readonly atGenerated?: boolean;
}

export interface PromptAt {
  readonly prompt: Prompt;
  readonly position: Position;
  /**
   * More tokens of the same cell. Of a target: the state is written there too. Of a source, then of its target as
   * many: the states of these go there, one to one.
   */
  readonly further?: readonly Position[];
  /** Of a target: edges of attention that are cut. */
  readonly cuts?: readonly Cut[];
  /** Of a target: what is done to its own states in every cell, before a state is patched into it. */
  readonly edits?: readonly OwnEdit[];
}

/**
 * A vector that no single prompt gives:
 *
 * - `file`: a tensor of one dimension or a row of a matrix; without `tensor` a GGUF file is a control vector, with
 *   a direction for each layer
 * - `mean`: of the states of prompts at the place that is wanted; `difference`: the mean of some less that of others
 * - `zero`; `noise`: independent draws of a normal distribution; `random`: a direction drawn at random
 */
export type VectorOf<Prompt> =
  | FileVector
  | { readonly kind: 'mean'; readonly prompts: readonly Prompt[] }
  | { readonly kind: 'difference'; readonly prompts: readonly Prompt[]; readonly minus: readonly Prompt[] }
  | { readonly kind: 'zero' }
  | NoiseVector
  | { readonly kind: 'random'; readonly norm: number };

export type Vector = VectorOf<PromptAt>;

export interface FileVector {
  readonly kind: 'file';
  readonly path: string;
  readonly tensor?: string;
  readonly row?: number;
  /** Absent until the file is read, which comes before the plan. */
  readonly read?: {
    readonly sha256: string;
    readonly values: Float32Array | Readonly<Record<number, Float32Array>>;
  };
}

export interface NoiseVector {
  readonly kind: 'noise';
  /** Standard deviation, as a number, or as a multiple where `of` is given. */
  readonly sigma: number;
  /** `embed`: of all floats that the tokens of the run's target prompts have there, but for a BOS put before them. */
  readonly of?: 'embed';
  /** What `sigma` is a multiple of; absent until it is measured, which comes before the plan. */
  readonly deviation?: number;
}

/** Where a state comes from: a prompt, or a vector in its place. */
export type Source = PromptAt | { readonly vector: Vector };

/** An edit of some tokens' states in a target. */
export interface OwnEdit extends Patch {
  readonly at: readonly Span[];
  /** A selector, see `parsePlaces`. */
  readonly layers: string;
  /** Default: `resid_out`. */
  readonly site?: Site;
  /** What `scale` has none of. The prompts of one are read by the target's model, at the edit's own place. */
  readonly vector?: Vector;
}

/** One pair of prompts. In an encoder-decoder model the encoder reads the prompt, and the decoder begins. */
export interface Sample {
  readonly name: string;
  /** What results are gathered by, such as a relation. */
  readonly group?: string;
  /** Texts of which any is right. */
  readonly answer?: readonly string[];
  /** What the sample is about, and what of it a probe is to find; both where the experiment has a probe. */
  readonly subject?: string;
  readonly class?: string;
  readonly source: Source;
  readonly target: PromptAt;
  /** What is another prompt or answer in a variant, by the variant's name. */
  readonly variants?: Readonly<Record<string, SampleInVariant>>;
}

export interface SampleInVariant extends Pick<Sample, 'answer'> {
  readonly source?: Source;
  readonly target?: PromptAt;
}

/** What is read from each patched run. */
export interface Reading {
  /** How many of the most probable tokens are kept for each token read. */
  readonly topK: number;
  /** How many tokens are generated; the first is the one read after the prompt. */
  readonly maxTokens: number;
  /** Default: the most probable token follows. Each cell draws with a seed of its own. */
  readonly sampling?: Sampling;
  /** Generation ends once the text contains one of these; it is cut there. */
  readonly stop: readonly string[];
  /**
   * Text that follows the target prompt instead of generated tokens, as plain text and without BOS: each of its
   * tokens is scored. `maxTokens` then says nothing, and nothing may be drawn or stopped.
   */
  readonly continuation?: string;
  /**
   * As many tokens as the source's model itself generates behind the source's position, at most `maxTokens`, follow the
   * target prompt instead of generated ones. What the patched run says behind each of them makes its text; nothing may
   * be drawn or stopped.
   */
  readonly ownContinuation?: boolean;
  /** Generation ends once the text contains an answer of the sample; the text is kept. */
  readonly stopAtAnswer?: boolean;
  /** Tokens that are scored at each token read: ids, or texts of which the first token counts. */
  readonly tracked?: readonly (string | number)[];
  /** The first token of each of the sample's answers is scored too. */
  readonly trackAnswer?: boolean;
}

/** How a state is written into the target. */
export interface Patch {
  /** Default: `replace`. */
  readonly op?: EditOp;
  /** Default: 1. */
  readonly alpha?: number;
  /** Also at each generated token. Default: in the prompt alone, as in the paper. */
  readonly atGenerated?: boolean;
  /** With `atGenerated`: alpha is decay^k times as large at the k-th generated token, counted from 1. Default: 1. */
  readonly decay?: number;
}

/** A low-rank adapter (LoRA) that a model is read with, as a GGUF file. */
export interface Adapter {
  /** The file's, the first digits of its sha256, and its scale where that is not 1. */
  readonly name: string;
  readonly path: string;
  readonly sha256: string;
  /** What it adds is multiplied by it. */
  readonly scale: number;
}

/** One that whoever runs the experiment is to give. */
export interface NeededAdapter {
  /** In words. */
  readonly needed: string;
}

/**
 * What the logits z of each token read are contrasted with, before anything is read or chosen:
 *
 * - `unpatched`: z + alpha (z - z'), where z' are those of the target as it is, with the same generated tokens behind it
 * - `layers`: z - z', where z' is the logit lens of the same token at one of these layers, the one farthest from z
 *
 * Tokens that are less probable by z than `cutoff` times the most probable one are left out.
 */
export type LogitContrast =
  | { readonly with: 'unpatched'; readonly alpha: number; readonly cutoff: number }
  /** A selector of layers before the last. */
  | { readonly with: { readonly layers: string }; readonly cutoff: number };

/** Which states go where. Layers are selectors, see `parsePlaces`. */
export interface Settings {
  readonly sourceLayers: string;
  /** Where in its block a source state lies. Default: `resid_out`. */
  readonly sourceSite?: Site;
  /** Where source layers and positions count, in an encoder-decoder model. Default: `decoder`. */
  readonly sourceSide?: Side;
  /** As `sourceLayers`, or relative to the layer that the state came from: `same`, `below`, `above`. */
  readonly targetLayers: string;
  /** Default: `resid_out`. */
  readonly targetSite?: Site;
  /** As `sourceSide`. */
  readonly targetSide?: Side;
  /** That the model reads the source prompt with. Default: none. */
  readonly sourceAdapter?: Adapter | NeededAdapter | 'none';
  /** That the model reads the target prompt with, and goes on with. */
  readonly targetAdapter?: Adapter | NeededAdapter | 'none';
  readonly mapping: Mapping;
  readonly patch?: Patch;
  /** Default: readings are taken as they are. */
  readonly contrast?: LogitContrast;
  /** More layers that are patched in the same cell. Default: the target layer alone. */
  readonly window?: Window;
  /**
   * How often each cell is run, each time with other random numbers; cells of one sample and draw have the same
   * noise. Default: 1.
   */
  readonly draws?: number;
}

/**
 * Layers around a target layer l: `onward` are all from l to the last one, a number N those from l - floor(N / 2) on,
 * N of them. Each gets the source's state as many layers above or below the source layer. A layer that one of the
 * models does not have is left out.
 */
export type Window = number | 'onward';

/** The experiment once more with some of its settings, or of its samples' prompts, changed. */
export interface Variant extends Partial<Settings> {
  readonly name: string;
  /** Default: those of the reading. */
  readonly maxTokens?: number;
  /** The level of each factor, where it is made of factors; the first of these variants has the first levels. */
  readonly factors?: Readonly<Record<string, string>>;
}

/** What is patched beside the captured states, to compare with. */
export const controls = ['none', 'random', 'shuffled', 'unpatched'] as const;
export type Control = (typeof controls)[number];

/** How many draws of each control there are for each cell. */
export interface Controls {
  /** A random vector of the captured state's norm. */
  readonly random?: number;
  /** The state of another sample. */
  readonly shuffled?: number;
  /** The target as it is: one cell for each sample and variant, without layers. */
  readonly unpatched?: boolean;
  /** Chunks that are run twice, to see whether the same comes out; see `cutRepeats`. */
  readonly repeat?: number;
}

/** How a reading compares with what the source's model itself says behind the source's position. */
export const ownMetricNames = [
  'precision-at-1',
  'precision-at-5',
  'precision-at-10',
  'surprisal',
  'surprisal-of-own',
] as const;
export type OwnMetricName = (typeof ownMetricNames)[number];

/** Beyond the next token: those of its own continuation. */
export const tokensAhead = [2, 3, 4] as const;
export type AheadMetricName = `${OwnMetricName}-ahead-${(typeof tokensAhead)[number]}`;

export const aheadMetricNames: readonly AheadMetricName[] = tokensAhead.flatMap((ahead) =>
  ownMetricNames.map((name) => `${name}-ahead-${ahead}` as const),
);

const answerMetricNames = [
  'answer-found',
  'answer-word',
  'answer-first-token',
  'answer-rank',
  'answer-logprob',
  'answer-probability',
  'rouge-1',
  'rouge-l',
  'rouge-1-cropped',
  'rouge-l-cropped',
  'relevancy',
] as const;

/** How a reading compares with other readings of its sample, once all are there: see `fidelityScores`. */
export const fidelityMetricNames = ['agreement', 'stability', 'unlike-controls'] as const;
export type FidelityMetricName = (typeof fidelityMetricNames)[number];

/** A number that says how good the reading of one cell is. */
export type MetricName =
  | (typeof answerMetricNames)[number]
  | OwnMetricName
  | AheadMetricName
  | FidelityMetricName;
export const metricNames: readonly MetricName[] = [
  ...answerMetricNames,
  ...ownMetricNames,
  ...aheadMetricNames,
  ...fidelityMetricNames,
];

/** Whether a metric compares cells with one another, so that it is made when a run ends. */
export function isFidelityMetric(metric: MetricName): metric is FidelityMetricName {
  return (fidelityMetricNames as readonly MetricName[]).includes(metric);
}

/** Frozen data: which states go where and what is read. */
export interface Experiment extends Settings {
  readonly name: string;
  readonly samples: readonly Sample[];
  /** Default: one, named `default`, which changes nothing. */
  readonly variants?: readonly Variant[];
  readonly reading: Reading;
  readonly metrics?: readonly MetricName[];
  readonly controls?: Controls;
  /** Variants that patch nothing; where the texts of all of them hold an answer, the model knows the sample's facts. */
  readonly known?: readonly string[];
  readonly probe?: ProbeSettings;
  /** Where the truth is known: what must come out. */
  readonly expected?: readonly Expectation[];
  readonly seed: number;
}

/** Whether a linear probe finds the samples' classes in their source states, group by group and layer by layer. */
export interface ProbeSettings {
  /** Each of which is held out once, with all samples of its subjects. */
  readonly folds: number;
}

/** Bounds of a metric's mean at each pair of layers, over the cells that are meant. */
export interface Expectation {
  /** In words. */
  readonly about: string;
  /** `probe` is the part of the samples whose class the probe finds, at each source layer. */
  readonly metric: MetricName | 'probe';
  /** Default: every variant. */
  readonly variant?: string;
  readonly control: Control;
  /** Of samples. Default: all of them. */
  readonly group?: string;
  /** Default: every layer. */
  readonly sourceLayers?: readonly Layer[];
  readonly targetLayers?: readonly Layer[];
  /** What a reading that says what is so would give. */
  readonly truth?: number;
  readonly least?: number;
  readonly most?: number;
}
