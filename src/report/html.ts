/** Text inside HTML. */

/** Inert wherever text or a quoted attribute may stand. */
export function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** A cell that holds nothing but blanks would look empty. */
export function visible(text: string): string {
  return /^\s+$/.test(text) ? text.replaceAll('\n', '⏎').replace(/\s/g, '␣') : text;
}
