/** Captures and edits of rows, as the addon takes them and gives their states back. */
import type { Edit, PatchRow } from '../engine.js';
import { concatenate } from '../floats.js';
import type { NativeStates, NativeStateWork } from '../native.js';
import type { EditOp, Layer, Side, Site } from '../patchscope.js';

export interface SitePoint {
  readonly site: Site;
  readonly layer: Layer;
}

export interface RowPoint extends SitePoint {
  readonly row: number;
}

export interface RowEdit extends RowPoint {
  /** Of edits of one state that of the lower turn comes first. */
  readonly turn: number;
  readonly op: EditOp;
  readonly alpha: number;
  readonly vector: Float32Array | undefined;
}

/** An edit and its turn. */
export type TurnedEdit = Edit & { readonly turn: number };

/** All edits of a row, turn by turn. */
export function turnsOf({ ownEdits = [], edits }: PatchRow): readonly (readonly Edit[])[] {
  return [ownEdits, edits];
}

/** The edits of one side, each with its turn. */
export function turnedEdits(row: PatchRow, side: Side): TurnedEdit[] {
  return turnsOf(row).flatMap((edits, turn) => ofSide(edits, side).map((edit) => ({ ...edit, turn })));
}

/** The points or edits of one side. */
export function ofSide<T extends { readonly side?: Side }>(points: readonly T[], side: Side): T[] {
  return points.filter((point) => (point.side ?? 'decoder') === side);
}

export function rowEdit(row: number, edit: TurnedEdit): RowEdit {
  const { site, layer, op = 'replace', alpha = 1, vector, turn } = edit;
  return { row, site, layer, op, alpha, vector, turn };
}

export class StateRows {
  readonly native: NativeStateWork;
  readonly #captures: readonly (readonly RowPoint[])[];

  /** `begin`: the first row that is computed. */
  constructor(captures: readonly RowPoint[], edits: readonly RowEdit[], begin: number) {
    this.#captures = groupByPlace(captures, ({ site, layer }) => `${site} ${layer}`);
    this.native = {
      captures: this.#captures.map((group) => siteRows(group, begin)),
      edits: groupByPlace(
        edits.toSorted((a, b) => a.turn - b.turn),
        ({ site, layer, op, turn }) => `${turn} ${site} ${layer} ${op}`,
      ).map((group) => ({
        ...siteRows(group, begin),
        op: group[0]!.op,
        alphas: Float32Array.from(group, ({ alpha }) => alpha),
        vectors: concatenate(group.flatMap(({ vector }) => vector ?? [])),
      })),
    };
  }

  /** The state of each capture: a view into those of its place, or null where it is not finite. */
  states(results: readonly NativeStates[]): Map<RowPoint, Float32Array | null> {
    return new Map(
      this.#captures.flatMap((group, i) => {
        const { states, finite } = results[i]!;
        const width = states.length / group.length;
        return group.map((capture, k) => [
          capture,
          finite[k] === 1 ? states.subarray(k * width, (k + 1) * width) : null,
        ]);
      }),
    );
  }
}

/** Neighbouring rows of a place travel in one transfer, so each group is sorted by row. */
function groupByPlace<T extends RowPoint>(entries: readonly T[], placeOf: (entry: T) => string): T[][] {
  const groups = new Map<string, T[]>();
  for (const entry of entries) {
    const place = placeOf(entry);
    const group = groups.get(place);
    if (group === undefined) groups.set(place, [entry]);
    else group.push(entry);
  }
  return [...groups.values()].map((group) => group.sort((a, b) => a.row - b.row));
}

function siteRows(group: readonly RowPoint[], begin: number) {
  return { ...nativePlace(group[0]!), rows: Int32Array.from(group, ({ row }) => row - begin) };
}

export function nativePlace({ site, layer }: SitePoint) {
  return { site, layer: layer === 'embed' || site === 'final_norm' ? 0 : layer };
}
