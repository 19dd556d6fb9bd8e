/** What was found in the tiny models, as a table in Markdown: models that are alike share a line. */
import type { ArchitectureReport, Refusal, SiteReport } from './architecture-report.js';

const shown = ['embed', 'resid_mid', 'attn_out', 'mlp_out', 'resid_out', 'final_norm'] as const;

export function architectureTable(reports: readonly (ArchitectureReport | Refusal)[]): string {
  const lines = new Map<string, string[]>();
  for (const report of reports) {
    const found = cellsOf(report).join(' | ');
    lines.set(found, [...(lines.get(found) ?? []), nameOf(report)]);
  }
  return [
    `| tiny model of | ${shown.map((site) => `\`${site}\``).join(' | ')} | own state written back |`,
    '|---|---|---|---|---|---|---|---|',
    ...[...lines].map(([found, names]) => `| ${names.join(', ')} | ${found} |`),
  ].join('\n');
}

function nameOf({ kind, architecture }: ArchitectureReport | Refusal): string {
  return kind === architecture ? kind : `${kind} (${architecture})`;
}

function cellsOf(report: ArchitectureReport | Refusal): string[] {
  if ('refused' in report) {
    // where the file was made says nothing
    const reason = report.refused.replace(/^The file \S+ (is|holds) /, 'It $1 ');
    return [`refused: ${reason}`, ...shown.map(() => '')];
  }
  const sites = shown.map((name) => cellOf(report.sites.find(({ site }) => site === name)!));
  return [...sites, report.ownState === 0 ? 'exact' : `up to ${report.ownState}`];
}

function cellOf({ found, of, reason }: SiteReport): string {
  if (found === of) return 'yes';
  return found === 0 ? `no: ${reason}` : `in some blocks; elsewhere ${reason}`;
}
