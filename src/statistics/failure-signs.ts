/** Signs that a reading says nothing, whatever was asked. */

export interface FailureSigns {
  /** Nothing but white space. */
  readonly empty: boolean;
  /** At least half of the tokens are one piece, of any length, three or more times in a row. */
  readonly repetitive: boolean;
  /** A sign that is no text: bytes that make no character, control characters but tabs and line ends, unassigned ones. */
  readonly unprintable: boolean;
}

export function failureSigns(text: string, tokenIds: readonly number[]): FailureSigns {
  return {
    empty: text.trim() === '',
    repetitive: isRepetitive(tokenIds),
    unprintable: /\ufffd|(?![\t\n\r])\p{Cc}|\p{Cn}|\p{Co}|\p{Cs}/u.test(text),
  };
}

const LEAST_TIMES = 3;

function isRepetitive(tokenIds: readonly number[]): boolean {
  const n = tokenIds.length;
  for (let length = 1; length * LEAST_TIMES <= n; length++) {
    const least = Math.max(LEAST_TIMES * length, n / 2);
    // tokens in a row that are like those a piece before
    for (let i = length, alike = 0; i < n; i++) {
      alike = tokenIds[i] === tokenIds[i - length] ? alike + 1 : 0;
      if (alike + length >= least && alike >= (LEAST_TIMES - 1) * length) return true;
    }
  }
  return false;
}
