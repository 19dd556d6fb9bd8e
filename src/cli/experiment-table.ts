/** The experiments of the package as a table. */
import { formatTable, type ListedExperiment } from '../index.js';

export const columns = ['name', 'T', 'i*', 'f', 'M*', 'l*', 'source', 'read-out'];

/** Longer ones are in the files. */
const LONGEST = 24;
const MOST = 2;
const MOST_READ = 4;

export function experimentRow(experiment: ListedExperiment): string[] {
  const { name, target, targetPosition, mapping, targetModel, targetLayers, source, reading } = experiment;
  return [
    name,
    few(target),
    few(targetPosition),
    few(mapping),
    targetModel,
    few(targetLayers),
    few(source),
    few(reading, MOST_READ, ', '),
  ];
}

export function experimentTable(experiments: readonly ListedExperiment[]): string {
  return formatTable({ columns, rows: experiments.map(experimentRow), truncated: false });
}

function few(values: readonly string[], most = MOST, between = '; '): string {
  const some = values.slice(0, most).map(short);
  return [...some, ...(values.length > most ? [`${values.length - most} more`] : [])].join(between);
}

function short(text: string): string {
  const characters = [...text];
  return characters.length > LONGEST ? `${characters.slice(0, LONGEST - 1).join('')}…` : text;
}
