/** The experiments of the package as a table. */
import { formatTable, type ListedExperiment } from '../index.js';

export const columns = ['name', 'T', 'i*', 'f', 'M*', 'l*', 'source', 'read-out'];

/** Longer ones are in the files. */
const LONGEST = 24;
const MOST = 2;

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
    reading,
  ];
}

export function experimentTable(experiments: readonly ListedExperiment[]): string {
  return formatTable({ columns, rows: experiments.map(experimentRow), truncated: false });
}

function few(values: readonly string[]): string {
  const some = values.slice(0, MOST).map(short);
  return [...some, ...(values.length > MOST ? [`${values.length - MOST} more`] : [])].join('; ');
}

function short(text: string): string {
  const characters = [...text];
  return characters.length > LONGEST ? `${characters.slice(0, LONGEST - 1).join('')}…` : text;
}
