/** File name patterns: `*` and `?` stay within one part of a path, `**` stands for any number of parts. */

/** Wildcard match of one part, in time proportional to the product of the lengths. */
function matchesPart(pattern: string, text: string): boolean {
  let at = 0;
  let from = 0;
  let star = -1;
  let mark = 0;
  while (at < text.length) {
    if (
      from < pattern.length &&
      (pattern[from] === '?' || pattern[from] === text[at]) &&
      pattern[from] !== '*'
    ) {
      from += 1;
      at += 1;
    } else if (pattern[from] === '*') {
      star = from;
      from += 1;
      mark = at;
    } else if (star >= 0) {
      from = star + 1;
      mark += 1;
      at = mark;
    } else return false;
  }
  while (pattern[from] === '*') from += 1;
  return from === pattern.length;
}

/** Does the relative path match the pattern as a whole? */
export function matchesPattern(pattern: string, path: string): boolean {
  const parts = path.split('/');
  // reachable[i]: the patterns so far can have used up exactly i parts
  let reachable = parts.map(() => false).concat(false);
  reachable[0] = true;
  for (const piece of pattern.split('/')) {
    const next = parts.map(() => false).concat(false);
    for (const [index, reached] of reachable.entries()) {
      if (piece === '**') next[index] = reached || (index > 0 && next[index - 1] === true);
      else if (reached && index < parts.length && matchesPart(piece, parts[index] ?? ''))
        next[index + 1] = true;
    }
    reachable = next;
  }
  return reachable[parts.length] === true;
}
