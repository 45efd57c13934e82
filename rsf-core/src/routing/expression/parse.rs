//! Tokens → nodes, by recursive descent within bounds.

use http::header::HeaderName;

use super::lex::{Kind, Token, lex};
use super::node::{Comparison, Function, Node, Operator, condition, sort};
use super::{Expression, MAX_BYTES, MAX_DEPTH, MAX_NODES};
use crate::routing::key::metadata_name;

const COMPARISONS: &[(&str, Comparison)] = &[
    ("==", Comparison::Equal),
    ("!=", Comparison::Unequal),
    ("<", Comparison::Less),
    ("<=", Comparison::AtMost),
    (">", Comparison::Greater),
    (">=", Comparison::AtLeast),
];
const SUMS: &[(&str, Operator)] = &[("+", Operator::Plus), ("-", Operator::Minus)];
const PRODUCTS: &[(&str, Operator)] = &[
    ("*", Operator::Times),
    ("/", Operator::Divided),
    ("%", Operator::Remainder),
];
/// Name, function, whether it can be called as `size(x)`, its arguments, the object before the dot included.
const FUNCTIONS: &[(&str, Function, bool, usize)] = &[
    ("has", Function::Has, true, 1),
    ("size", Function::Size, true, 1),
    ("int", Function::Int, true, 1),
    ("string", Function::Text, true, 1),
    ("hash", Function::Hash, true, 1),
    ("startsWith", Function::StartsWith, false, 2),
    ("endsWith", Function::EndsWith, false, 2),
    ("contains", Function::Contains, false, 2),
];

pub(super) fn parse(text: &str) -> Result<Expression, String> {
    if text.len() > MAX_BYTES {
        return Err(format!("{} bytes; at most {MAX_BYTES} are allowed", text.len()));
    }
    let tokens = lex(text)?;
    let mut parser = Parser {
        tokens: &tokens,
        depth: 0,
        nodes: 0,
        fields: Vec::new(),
        metadata: Vec::new(),
    };
    let root = parser.expression()?;
    if let Some(token) = parser.tokens.first() {
        return Err(format!("at byte {}: the expression has ended before", token.at));
    }
    if let Some(sort @ ("a truth value" | "a number")) = sort(&root) {
        return Err(format!(
            "yields {sort}; it is to yield a text: a zone, a tag's value, or \"\""
        ));
    }
    Ok(Expression {
        root,
        fields: parser.fields,
        metadata: parser.metadata,
    })
}

struct Parser<'a> {
    tokens: &'a [Token],
    depth: usize,
    nodes: usize,
    fields: Vec<String>,
    metadata: Vec<HeaderName>,
}

type Parsed = Result<Node, String>;

impl Parser<'_> {
    /// Counts a node and, while `inner` runs, a level.
    fn within<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        if self.depth >= MAX_DEPTH {
            return Err(format!("is more than {MAX_DEPTH} levels deep"));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn node(&mut self, node: Node) -> Parsed {
        self.nodes += 1;
        match self.nodes > MAX_NODES {
            true => Err(format!("has more than {MAX_NODES} nodes")),
            false => Ok(node),
        }
    }

    /// Takes the next token where it is this symbol.
    fn take(&mut self, symbol: &str) -> bool {
        let found = matches!(self.tokens.first(), Some(Token { kind: Kind::Symbol(s), .. }) if *s == symbol);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    fn take_one<T: Copy>(&mut self, of: &[(&str, T)]) -> Option<T> {
        of.iter()
            .find(|(symbol, _)| self.take(symbol))
            .map(|(_, meaning)| *meaning)
    }

    fn expect(&mut self, symbol: &str) -> Result<(), String> {
        match self.take(symbol) {
            true => Ok(()),
            false => Err(format!("{}: `{symbol}` is missing", self.place())),
        }
    }

    fn place(&self) -> String {
        match self.tokens.first() {
            Some(token) => format!("at byte {}", token.at),
            None => "ends too early".to_owned(),
        }
    }

    fn expression(&mut self) -> Parsed {
        self.within(|parser| {
            let mut cases = Vec::new();
            loop {
                let value = parser.any()?;
                if !parser.take("?") {
                    return match cases.is_empty() {
                        true => Ok(value),
                        false => parser.node(Node::Cases(cases, Box::new(value))),
                    };
                }
                condition(&value)?;
                let then = parser.expression()?;
                parser.expect(":")?;
                parser.nodes += 1;
                cases.push((value, then));
            }
        })
    }

    fn any(&mut self) -> Parsed {
        self.logic("||", Self::all, Node::Any)
    }

    fn all(&mut self) -> Parsed {
        self.logic("&&", Self::comparison, Node::All)
    }

    fn logic(&mut self, symbol: &str, part: fn(&mut Self) -> Parsed, node: fn(Vec<Node>) -> Node) -> Parsed {
        let first = part(self)?;
        if !self.take(symbol) {
            return Ok(first);
        }
        let mut parts = vec![first, part(self)?];
        while self.take(symbol) {
            parts.push(part(self)?);
        }
        parts.iter().try_for_each(condition)?;
        self.node(node(parts))
    }

    fn comparison(&mut self) -> Parsed {
        let left = self.sum()?;
        if let Some(comparison) = self.take_one(COMPARISONS) {
            let right = self.sum()?;
            return self.node(Node::Compare(comparison, Box::new(left), Box::new(right)));
        }
        if matches!(self.tokens.first(), Some(Token { kind: Kind::Name(name), .. }) if name == "in") {
            self.tokens = &self.tokens[1..];
            self.expect("[")?;
            let list = self.list("]")?;
            return self.node(Node::In(Box::new(left), list));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Parsed {
        self.chain(SUMS, Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.chain(PRODUCTS, Self::unary)
    }

    fn chain(&mut self, operators: &[(&str, Operator)], part: fn(&mut Self) -> Parsed) -> Parsed {
        let first = part(self)?;
        let mut rest = Vec::new();
        while let Some(operator) = self.take_one(operators) {
            rest.push((operator, part(self)?));
        }
        match rest.is_empty() {
            true => Ok(first),
            false => self.node(Node::Chain(Box::new(first), rest)),
        }
    }

    fn unary(&mut self) -> Parsed {
        if self.take("!") {
            let inner = self.within(Self::unary)?;
            condition(&inner)?;
            return self.node(Node::Not(Box::new(inner)));
        }
        if self.take("-") {
            let inner = self.within(Self::unary)?;
            return self.node(Node::Negative(Box::new(inner)));
        }
        self.member()
    }

    /// A value and the methods that are called on it.
    fn member(&mut self) -> Parsed {
        let mut node = self.primary()?;
        while self.take(".") {
            let (at, name) = self.name()?;
            self.expect("(")?;
            let mut arguments = vec![node];
            arguments.extend(self.within(|parser| parser.list(")"))?);
            node = self.function(at, &name, arguments, true)?;
        }
        Ok(node)
    }

    fn primary(&mut self) -> Parsed {
        let Some(token) = self.tokens.first() else {
            return Err("ends too early".to_owned());
        };
        let at = token.at;
        match token.kind.clone() {
            Kind::Symbol("(") => {
                self.tokens = &self.tokens[1..];
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Kind::Symbol("[") => {
                // A list by itself is of no use, but what is said about it should be what is wrong with it.
                self.tokens = &self.tokens[1..];
                self.within(|parser| parser.list("]"))?;
                if self.take(".") {
                    let (at, name) = self.name()?;
                    return Err(unknown(at, &name));
                }
                Err(format!("at byte {at}: a list stands only after `in`"))
            }
            Kind::Symbol(symbol) => Err(format!("at byte {at}: `{symbol}` stands where a value should")),
            Kind::Number(number) => {
                self.tokens = &self.tokens[1..];
                self.node(Node::Number(number))
            }
            Kind::Text(text) => {
                self.tokens = &self.tokens[1..];
                self.node(Node::Text(text))
            }
            Kind::Name(name) => {
                self.tokens = &self.tokens[1..];
                self.named(at, &name)
            }
        }
    }

    fn named(&mut self, at: usize, name: &str) -> Parsed {
        match name {
            "true" | "false" => self.node(Node::Flag(name == "true")),
            "null" => self.node(Node::Null),
            "method" => self.node(Node::Method),
            "request" => self.field(at),
            "metadata" => {
                let usage = || format!("at byte {at}: metadata is read as metadata[\"<name>\"]");
                if !self.take("[") {
                    return Err(usage());
                }
                let Some(Token {
                    kind: Kind::Text(key),
                    ..
                }) = self.tokens.first()
                else {
                    return Err(usage());
                };
                let header = metadata_name(key).map_err(|problem| format!("at byte {at}: {problem}"))?;
                self.tokens = &self.tokens[1..];
                self.expect("]")?;
                let place = place_of(&mut self.metadata, header);
                self.node(Node::Metadata(place))
            }
            _ if self.take("(") => {
                let arguments = self.within(|parser| parser.list(")"))?;
                self.function(at, name, arguments, false)
            }
            _ => Err(format!(
                "at byte {at}: unknown name `{name}`; known: request.<field>, metadata[\"<name>\"], method"
            )),
        }
    }

    /// `.order.region`, up to a method's name.
    fn field(&mut self, at: usize) -> Parsed {
        let mut path = String::new();
        while let [
            Token {
                kind: Kind::Symbol("."),
                ..
            },
            Token {
                kind: Kind::Name(name),
                ..
            },
            rest @ ..,
        ] = self.tokens
        {
            if matches!(
                rest.first(),
                Some(Token {
                    kind: Kind::Symbol("("),
                    ..
                })
            ) {
                break;
            }
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
            self.tokens = rest;
        }
        if path.is_empty() {
            return Err(format!("at byte {at}: a field is read as request.<field>"));
        }
        let place = place_of(&mut self.fields, path);
        self.node(Node::Field(place))
    }

    fn name(&mut self) -> Result<(usize, String), String> {
        let place = self.place();
        match self.tokens {
            [
                Token {
                    at,
                    kind: Kind::Name(name),
                },
                rest @ ..,
            ] => {
                self.tokens = rest;
                Ok((*at, name.clone()))
            }
            _ => Err(format!("{place}: a name is missing after `.`")),
        }
    }

    /// Values up to `end`, which is taken too.
    fn list(&mut self, end: &str) -> Result<Vec<Node>, String> {
        let mut items = Vec::new();
        if self.take(end) {
            return Ok(items);
        }
        loop {
            items.push(self.expression()?);
            if !self.take(",") {
                self.expect(end)?;
                return Ok(items);
            }
        }
    }

    fn function(&mut self, at: usize, name: &str, arguments: Vec<Node>, on_object: bool) -> Parsed {
        let known = FUNCTIONS.iter().find(|(known, function, free, _)| {
            *known == name && (*free != on_object || *function == Function::Size)
        });
        let Some((_, function, _, count)) = known else {
            return Err(unknown(at, name));
        };
        if arguments.len() != *count {
            let own = count - usize::from(on_object);
            return Err(format!(
                "at byte {at}: `{name}` takes {own} argument{}",
                if own == 1 { "" } else { "s" }
            ));
        }
        if *function == Function::Has && !matches!(arguments[0], Node::Field(_) | Node::Metadata(_)) {
            return Err(format!(
                "at byte {at}: `has` asks for a request.<field> or metadata[\"<name>\"]"
            ));
        }
        self.node(Node::Call(*function, arguments))
    }
}

fn unknown(at: usize, name: &str) -> String {
    let known: Vec<_> = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
    format!(
        "at byte {at}: unknown function `{name}`; known: {}",
        known.join(", ")
    )
}

fn place_of<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|known| *known == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}
