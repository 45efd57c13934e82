//! Text → tokens.

/// A token and the byte where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Name(String),
    Number(i64),
    Text(String),
    Symbol(&'static str),
}

/// Longer ones first.
const SYMBOLS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", "(", ")", "[", "]",
    ".", ",",
];

pub(super) fn lex(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (kind, length) = match first {
            c if c.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            'a'..='z' | 'A'..='Z' | '_' => {
                let name = until(rest, |c| !c.is_ascii_alphanumeric() && c != '_');
                (Kind::Name(name.to_owned()), name.len())
            }
            '0'..='9' => {
                let digits = until(rest, |c| !c.is_ascii_digit());
                let number = digits
                    .parse()
                    .map_err(|_| format!("at byte {at}: {digits} is too large"))?;
                (Kind::Number(number), digits.len())
            }
            '"' | '\'' => quoted(rest, first).map_err(|problem| format!("at byte {at}: {problem}"))?,
            other => match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
                Some(symbol) => (Kind::Symbol(symbol), symbol.len()),
                None => return Err(format!("at byte {at}: `{other}` means nothing here")),
            },
        };
        tokens.push(Token { at, kind });
        at += length;
    }
    Ok(tokens)
}

fn until(text: &str, end: impl Fn(char) -> bool) -> &str {
    &text[..text.find(end).unwrap_or(text.len())]
}

/// A quoted text, and how many bytes it takes.
fn quoted(text: &str, quote: char) -> Result<(Kind, usize), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((place, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok((Kind::Text(out), place + 1)),
            '\\' => match chars.next() {
                Some((_, c @ ('\\' | '"' | '\''))) => out.push(c),
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                _ => return Err("after `\\` stands one of \\ \" ' n t".to_owned()),
            },
            _ => out.push(c),
        }
    }
    Err("the text is not closed".to_owned())
}
