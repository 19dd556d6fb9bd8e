/**
 * A generated description without what follows it in a list such as `x: a man, Syria: Country in the Middle East`
 * (paper, section 4.3): up to the first line break, or the first comma before a name and a colon. A name begins with a
 * capital letter or a number and has no comma.
 */
export function cropDescription(text: string): string {
  return text.split(/\n|, *(?=[\p{Lu}\p{N}][^,:\n]*:)/u, 1)[0]!.trim();
}
