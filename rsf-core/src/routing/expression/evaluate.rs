//! Nodes and a call's fields → a text. Every node is evaluated at most once, so that steps are bounded by nodes.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::node::{Comparison, Function, Node, Operator};

/// Bytes that a text may grow to by `+`.
const MAX_TEXT: usize = 8192;

/// What an expression may read.
pub(crate) trait Environment<'a> {
    /// A request field, by its place; [`Value::Null`] where it is absent.
    fn field(&self, place: usize) -> Value<'a>;
    /// A metadata value, by its place.
    fn metadata(&self, place: usize) -> Option<&'a str>;
    /// The method's name.
    fn method(&self) -> &'a str;
}

/// What a node yields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    /// An absent field.
    Null,
    Flag(bool),
    Number(i128),
    Text(Cow<'a, str>),
}

type Evaluated<'a> = Result<Value<'a>, String>;

pub(super) fn text<'a>(node: &'a Node, environment: &impl Environment<'a>) -> Result<Cow<'a, str>, String> {
    match evaluate(node, environment)? {
        Value::Null => Ok(Cow::Borrowed("")),
        Value::Text(text) => Ok(text),
        other => Err(format!("yields {}, not a text", sort(&other))),
    }
}

fn evaluate<'a>(node: &'a Node, environment: &impl Environment<'a>) -> Evaluated<'a> {
    let eval = |node| evaluate(node, environment);
    Ok(match node {
        Node::Null => Value::Null,
        Node::Flag(flag) => Value::Flag(*flag),
        Node::Number(number) => Value::Number(i128::from(*number)),
        Node::Text(text) => Value::Text(Cow::Borrowed(text)),
        Node::Field(place) => environment.field(*place),
        Node::Metadata(place) => environment
            .metadata(*place)
            .map_or(Value::Null, |text| Value::Text(Cow::Borrowed(text))),
        Node::Method => Value::Text(Cow::Borrowed(environment.method())),
        Node::Cases(cases, last) => {
            for (condition, value) in cases {
                if flag(eval(condition)?)? {
                    return eval(value);
                }
            }
            return eval(last);
        }
        Node::Any(parts) => {
            for part in parts {
                if flag(eval(part)?)? {
                    return Ok(Value::Flag(true));
                }
            }
            Value::Flag(false)
        }
        Node::All(parts) => {
            for part in parts {
                if !flag(eval(part)?)? {
                    return Ok(Value::Flag(false));
                }
            }
            Value::Flag(true)
        }
        Node::Not(inner) => Value::Flag(!flag(eval(inner)?)?),
        Node::Negative(inner) => bounded(0i128.checked_sub(number(&eval(inner)?)?))?,
        Node::Compare(comparison, left, right) => {
            Value::Flag(compare(*comparison, &eval(left)?, &eval(right)?)?)
        }
        Node::In(item, list) => {
            let item = eval(item)?;
            for other in list {
                if eval(other)? == item {
                    return Ok(Value::Flag(true));
                }
            }
            Value::Flag(false)
        }
        Node::Chain(first, rest) => {
            let mut value = eval(first)?;
            for (operator, part) in rest {
                value = operate(value, *operator, eval(part)?)?;
            }
            value
        }
        Node::Call(function, arguments) => call(*function, arguments, &eval)?,
    })
}

fn sort(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Flag(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::Text(_) => "a text",
    }
}

fn flag(value: Value<'_>) -> Result<bool, String> {
    match value {
        Value::Flag(flag) => Ok(flag),
        // An absent field is not set.
        Value::Null => Ok(false),
        other => Err(format!("{} is no condition", sort(&other))),
    }
}

fn number(value: &Value<'_>) -> Result<i128, String> {
    match value {
        Value::Number(number) => Ok(*number),
        other => Err(format!("{} stands where a number should", sort(other))),
    }
}

/// Absent fields are texts without a letter: to look into one is no mistake of the expression.
fn string<'b>(value: &'b Value<'_>) -> Result<&'b str, String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Null => Ok(""),
        other => Err(format!("{} stands where a text should", sort(other))),
    }
}

/// Numbers stay within what fields can hold.
fn bounded(number: Option<i128>) -> Evaluated<'static> {
    number
        .filter(|number| (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(number))
        .map(Value::Number)
        .ok_or_else(|| "a number grew too large".to_owned())
}

fn compare(comparison: Comparison, left: &Value<'_>, right: &Value<'_>) -> Result<bool, String> {
    let order = match (left, right) {
        _ if matches!(comparison, Comparison::Equal) => return Ok(left == right),
        _ if matches!(comparison, Comparison::Unequal) => return Ok(left != right),
        // What is absent is neither more nor less than anything.
        (Value::Null, _) | (_, Value::Null) => return Ok(false),
        (Value::Number(left), Value::Number(right)) => left.cmp(right),
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        (left, right) => return Err(format!("compares {} with {}", sort(left), sort(right))),
    };
    Ok(match comparison {
        Comparison::Less => order == Ordering::Less,
        Comparison::AtMost => order != Ordering::Greater,
        Comparison::Greater => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

fn operate<'a>(left: Value<'a>, operator: Operator, right: Value<'a>) -> Evaluated<'a> {
    if let (Operator::Plus, Value::Text(_) | Value::Null, Value::Text(_) | Value::Null) =
        (operator, &left, &right)
    {
        let (left, right) = (string(&left)?, string(&right)?);
        if left.len() + right.len() > MAX_TEXT {
            return Err(format!("a text grew beyond {MAX_TEXT} bytes"));
        }
        return Ok(Value::Text(format!("{left}{right}").into()));
    }
    let (left, right) = (number(&left)?, number(&right)?);
    if right == 0 && matches!(operator, Operator::Divided | Operator::Remainder) {
        return Err("division by zero".to_owned());
    }
    bounded(match operator {
        Operator::Plus => left.checked_add(right),
        Operator::Minus => left.checked_sub(right),
        Operator::Times => left.checked_mul(right),
        Operator::Divided => left.checked_div(right),
        Operator::Remainder => left.checked_rem(right),
    })
}

fn call<'a>(
    function: Function,
    arguments: &'a [Node],
    eval: &impl Fn(&'a Node) -> Evaluated<'a>,
) -> Evaluated<'a> {
    let mut values = arguments.iter().map(eval);
    let mut next = || values.next().unwrap_or(Ok(Value::Null));
    let first = next()?;
    Ok(match function {
        Function::Has => Value::Flag(first != Value::Null),
        Function::Size => Value::Number(string(&first)?.chars().count() as i128),
        Function::Int => match &first {
            Value::Number(_) | Value::Null => first,
            Value::Flag(flag) => Value::Number(i128::from(*flag)),
            Value::Text(text) => match text.parse::<i64>() {
                Ok(number) => Value::Number(i128::from(number)),
                Err(_) => return Err("`int` was given a text that is no whole number".to_owned()),
            },
        },
        Function::Text => match first {
            Value::Null => Value::Text("".into()),
            Value::Flag(flag) => Value::Text(flag.to_string().into()),
            Value::Number(number) => Value::Text(number.to_string().into()),
            text => text,
        },
        Function::Hash => {
            let hash = match &first {
                Value::Number(number) => crate::routing::key::Key::Number(*number).hash(),
                other => crate::client::key::hash(string(other)?.as_bytes()),
            };
            Value::Number(i128::from(hash))
        }
        Function::StartsWith => Value::Flag(string(&first)?.starts_with(string(&next()?)?)),
        Function::EndsWith => Value::Flag(string(&first)?.ends_with(string(&next()?)?)),
        Function::Contains => Value::Flag(string(&first)?.contains(string(&next()?)?)),
    })
}
