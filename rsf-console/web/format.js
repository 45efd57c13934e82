// Numbers, times and shell words for people.

/** A rate with as many digits as it deserves. */
export function rate(value) {
  if (!value) return "0";
  if (value < 10) return value.toFixed(1);
  return Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");
}

/** Milliseconds. */
export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${value.toFixed(2)} ms`;
  if (value < 100) return `${value.toFixed(1)} ms`;
  if (value < 10000) return `${Math.round(value)} ms`;
  return `${(value / 1000).toFixed(1)} s`;
}

/** A moment: the time for today's, with the date for earlier ones. */
export function moment(unixMs) {
  if (!unixMs) return "–";
  const at = new Date(unixMs);
  const two = (number) => String(number).padStart(2, "0");
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  const today = at.toDateString() === new Date().toDateString();
  return today ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** A word that a POSIX shell takes as one. */
export function shellWord(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A key as one part of an edit path. */
export function pathKey(key) {
  return /[.[\]"=]/.test(key) ? `["${key}"]` : `.${key}`;
}
