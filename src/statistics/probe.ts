/** What of a class a linear probe finds in states (paper, section 4.2): logistic regression, cross-validated. */
import { bad, checkNumbers } from './checks.js';
import { coordinates, gramMatrix, transposed } from './coordinates.js';
import { innerProducts } from './inner-products.js';
import { fitLogistic } from './logistic-regression.js';

export interface ProbeData {
  /** One each sample, all at one layer. */
  readonly states: readonly Float32Array[];
  /** The class of each sample. */
  readonly labels: readonly string[];
  /** The fold in which each sample is held out, see `groupedFolds`. */
  readonly folds: readonly number[];
  /** Of the loss, see `fitLogistic`. Default: 1. */
  readonly c?: number;
  /**
   * Default: 100, as in scikit-learn. The fit of states thousands long is then about 0.00001 a sample above the least
   * loss, and takes ten times as many to come closer.
   */
  readonly maxIterations?: number;
}

export interface ProbeResult {
  /** The part of all samples whose class was found while they were held out. */
  readonly accuracy: number;
  /** The class found for each sample. */
  readonly predictions: readonly string[];
  /** How well each fold's fit met its minimum, see `Fit`. */
  readonly fits: readonly { readonly loss: number; readonly slope: number; readonly iterations: number }[];
}

/** @throws PatchscopeError `bad_input` where states are not finite or of several widths, or a fit has one class. */
export function probe({ states, labels, folds, c = 1, maxIterations = 100 }: ProbeData): ProbeResult {
  checkProbe(states, labels, folds);
  const width = states[0]!.length;
  const samples = new Float64Array(states.length * width);
  for (const [i, state] of states.entries()) samples.set(state, i * width);
  const gram = gramMatrix(samples, width);
  const predictions = new Array<string>(states.length);
  const fits = [...new Set(folds)]
    .sort((a, b) => a - b)
    .map((fold) => {
      const indices = [...folds.keys()];
      const train = indices.filter((i) => folds[i] !== fold);
      const held = indices.filter((i) => folds[i] === fold);
      const names = [...new Set(train.map((i) => labels[i]!))].sort();
      const all = coordinates(gram, train);
      const of = (wanted: readonly number[]) => selected(all, states.length, wanted);
      const classes = train.map((i) => names.indexOf(labels[i]!));
      const fit = fitLogistic({
        coordinates: of(train),
        classes,
        classCount: names.length,
        c,
        maxIterations,
      });
      const dimensions = all.length / states.length;
      const points = transposed(of(held), dimensions, held.length);
      const logits = innerProducts(points, held.length, fit.weights, names.length, dimensions);
      held.forEach((i, row) => {
        const own = fit.intercepts.map((intercept, k) => intercept + logits[row * names.length + k]!);
        predictions[i] = names[own.indexOf(Math.max(...own))]!;
      });
      const { loss, slope, iterations } = fit;
      return { loss, slope, iterations };
    });
  const right = predictions.filter((name, i) => name === labels[i]).length;
  return { accuracy: right / states.length, predictions, fits };
}

/** Of rows of `count` numbers the wanted columns. */
function selected(rows: Float64Array, count: number, wanted: readonly number[]): Float64Array {
  const part = new Float64Array((rows.length / count) * wanted.length);
  for (let row = 0, at = 0; row < rows.length; row += count)
    for (const i of wanted) part[at++] = rows[row + i]!;
  return part;
}

function checkProbe(states: ProbeData['states'], labels: readonly string[], folds: readonly number[]): void {
  const n = states.length;
  if (n === 0) throw bad('There are no states to probe.');
  if (labels.length !== n || folds.length !== n) {
    throw bad(
      `There are ${n} states, ${labels.length} classes and ${folds.length} folds: each state needs one.`,
    );
  }
  const width = states[0]!.length;
  states.forEach((state, i) => {
    if (state.length !== width)
      throw bad(`State ${i + 1} has ${state.length} numbers where the first has ${width}.`);
    checkNumbers(state, `numbers of state ${i + 1}`);
  });
  checkClasses(labels, folds);
}

/** @throws PatchscopeError `bad_input` where there is no second class to learn, in some fold or at all. */
export function checkClasses(labels: readonly string[], folds: readonly number[]): void {
  if (new Set(labels).size < 2)
    throw bad(`All states are of the class '${labels[0]}': a probe needs two or more.`);
  if (new Set(folds).size < 2) throw bad('All states are in one fold: a probe needs two or more.');
  for (const fold of new Set(folds)) {
    const names = new Set(labels.filter((_, i) => folds[i] !== fold));
    if (names.size < 2) {
      throw bad(
        `Without fold ${fold} there is no class but '${[...names][0]}' to learn from: a probe needs two or more.`,
      );
    }
  }
}
