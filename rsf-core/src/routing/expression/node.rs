//! What expressions are made of, and what a node is sure to yield.

/// What an expression is made of. Chains of one operator are one node with many parts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Null,
    Flag(bool),
    Number(i64),
    Text(String),
    /// A request field, by its place in [`Expression::fields`].
    Field(usize),
    Metadata(usize),
    Method,
    /// Conditions and what they yield, and what is left where none holds.
    Cases(Vec<(Node, Node)>, Box<Node>),
    Any(Vec<Node>),
    All(Vec<Node>),
    Not(Box<Node>),
    Negative(Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    In(Box<Node>, Vec<Node>),
    /// The first, then what is done with each of the others in turn.
    Chain(Box<Node>, Vec<(Operator, Node)>),
    Call(Function, Vec<Node>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Operator {
    Plus,
    Minus,
    Times,
    Divided,
    Remainder,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Function {
    Has,
    Size,
    Int,
    Text,
    Hash,
    StartsWith,
    EndsWith,
    Contains,
}

/// What a node is sure to yield, where its text tells.
pub(super) fn sort(node: &Node) -> Option<&'static str> {
    match node {
        Node::Flag(_) | Node::Any(_) | Node::All(_) | Node::Not(_) | Node::Compare(..) | Node::In(..) => {
            Some("a truth value")
        }
        Node::Number(_) | Node::Negative(_) => Some("a number"),
        Node::Text(_) | Node::Method => Some("a text"),
        Node::Call(function, _) => Some(match function {
            Function::Size | Function::Int | Function::Hash => "a number",
            Function::Text => "a text",
            Function::Has | Function::StartsWith | Function::EndsWith | Function::Contains => "a truth value",
        }),
        Node::Cases(cases, last) => {
            let mut sorts = cases.iter().map(|(_, value)| sort(value)).chain([sort(last)]);
            // One branch that cannot be right is enough.
            sorts
                .find(|sort| matches!(sort, Some("a truth value" | "a number")))
                .flatten()
        }
        Node::Null | Node::Field(_) | Node::Metadata(_) | Node::Chain(..) => None,
    }
}

/// Refuses what is sure to be no condition.
pub(super) fn condition(node: &Node) -> Result<(), String> {
    match node {
        // Its branches may be of any sort here.
        Node::Cases(..) => Ok(()),
        _ => match sort(node) {
            Some(sort @ ("a text" | "a number")) => Err(format!("{sort} is no condition")),
            _ => Ok(()),
        },
    }
}
