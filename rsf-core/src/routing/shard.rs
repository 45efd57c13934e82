//! Which zone or tag owns a key: computed alike by the consumer, which routes by it, and the provider, which checks it.

use http::HeaderValue;

use super::key::Key;
use crate::policy::routing::{Bound, Shard, ShardRange};

/// Owners of one rule at most.
const MAX_OWNERS: usize = 128;

/// Keys → owners.
#[derive(Debug)]
pub(crate) struct ShardMap {
    buckets: Option<u32>,
    ranges: Ranges,
    owners: Vec<Owner>,
}

/// A zone or a tag that owns keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// All instances of a zone.
    Zone(String),
    /// All instances with a tag.
    Tag(String, String),
}

/// Sorted, without overlaps: each from its first key up to and without the next member, and the owner's place.
#[derive(Debug)]
enum Ranges {
    Numbers(Vec<(i128, i128, usize)>),
    Texts(Vec<(String, Option<String>, usize)>),
}

impl ShardMap {
    /// Compiles a rule, or says everything that is wrong with its ranges.
    pub(crate) fn new(rule: &Shard) -> Result<ShardMap, String> {
        if rule.ranges.is_empty() {
            return Err("is required: which keys belong where".to_owned());
        }
        let mut owners = Vec::new();
        let mut problems = Vec::new();
        let mut of_ranges = Vec::with_capacity(rule.ranges.len());
        for (place, range) in rule.ranges.iter().enumerate() {
            match owner(range) {
                Ok(owner) => {
                    let known = owners.iter().position(|known| *known == owner);
                    of_ranges.push(known.unwrap_or(owners.len()));
                    if known.is_none() {
                        owners.push(owner);
                    }
                }
                Err(problem) => {
                    of_ranges.push(0);
                    problems.push(format!("[{place}] {problem}"));
                }
            }
        }
        if owners.len() > MAX_OWNERS {
            problems.push(format!(
                "{} owners; at most {MAX_OWNERS} are allowed",
                owners.len()
            ));
        }
        let bounds = rule
            .ranges
            .iter()
            .flat_map(|range| [&range.from, &range.to])
            .flatten();
        let (numbers, texts): (Vec<_>, Vec<_>) = bounds.partition(|bound| matches!(bound, Bound::Number(_)));
        let by_number = rule.buckets.is_some() || texts.is_empty();
        if by_number && !texts.is_empty() {
            problems.push("the ranges of `buckets` are whole numbers".to_owned());
        } else if !numbers.is_empty() && !texts.is_empty() {
            problems.push("`from` and `to` are numbers in some ranges and texts in others".to_owned());
        }
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
        let ranges = match by_number {
            true => Ranges::Numbers(sorted(&rule.ranges, &of_ranges, number_range)?),
            false => Ranges::Texts(sorted(&rule.ranges, &of_ranges, text_range)?),
        };
        Ok(ShardMap {
            buckets: rule.buckets,
            ranges,
            owners,
        })
    }

    /// Everybody who owns a key.
    pub(crate) fn owners(&self) -> &[Owner] {
        &self.owners
    }

    /// The place of the key's owner; `None` where no range holds the key.
    pub(crate) fn owner_of(&self, key: &Key<'_>) -> Option<usize> {
        match &self.ranges {
            Ranges::Numbers(ranges) => {
                let number = match self.buckets {
                    Some(buckets) => i128::from(key.hash() % u64::from(buckets)),
                    None => key.number()?,
                };
                let after = ranges.partition_point(|(from, _, _)| *from <= number);
                let (_, to, owner) = ranges[..after].last()?;
                (number < *to).then_some(*owner)
            }
            Ranges::Texts(ranges) => key.with_bytes(|key| {
                let after = ranges.partition_point(|(from, _, _)| from.as_bytes() <= key);
                let (_, to, owner) = ranges[..after].last()?;
                to.as_ref().is_none_or(|to| key < to.as_bytes()).then_some(*owner)
            }),
        }
    }
}

fn owner(range: &ShardRange) -> Result<Owner, String> {
    let mut tags = range.tag.iter();
    match (&range.zone, tags.next(), tags.next()) {
        (Some(zone), None, None) if !zone.is_empty() => Ok(Owner::Zone(zone.clone())),
        (None, Some((key, _)), None) if key.is_empty() || key.contains('=') => Err(format!(
            "`{key}` is no tag that can own keys: it is empty or has a `=`"
        )),
        (None, Some((key, value)), None) => Ok(Owner::Tag(key.clone(), value.clone())),
        _ => Err("names neither one `zone` nor one `tag`".to_owned()),
    }
}

type Span<T, E> = (T, E, usize);

fn number_range(range: &ShardRange, owner: usize) -> Span<i128, i128> {
    let number = |bound: &Option<Bound>, open| match bound {
        Some(Bound::Number(number)) => i128::from(*number),
        _ => open,
    };
    (
        number(&range.from, i128::MIN),
        number(&range.to, i128::MAX),
        owner,
    )
}

fn text_range(range: &ShardRange, owner: usize) -> Span<String, Option<String>> {
    let text = |bound: &Option<Bound>| match bound {
        Some(Bound::Text(text)) => Some(text.clone()),
        _ => None,
    };
    (text(&range.from).unwrap_or_default(), text(&range.to), owner)
}

/// Ends of ranges: one without an end holds every key from its first on.
trait End<T> {
    fn is_after(&self, key: &T) -> bool;
}

impl End<i128> for i128 {
    fn is_after(&self, key: &i128) -> bool {
        self > key
    }
}

impl End<String> for Option<String> {
    fn is_after(&self, key: &String) -> bool {
        self.as_ref().is_none_or(|end| end > key)
    }
}

fn sorted<T: Ord, E: End<T>>(
    ranges: &[ShardRange],
    owners: &[usize],
    read: fn(&ShardRange, usize) -> Span<T, E>,
) -> Result<Vec<Span<T, E>>, String> {
    let mut problems = Vec::new();
    let mut spans = Vec::with_capacity(ranges.len());
    for (place, (range, owner)) in ranges.iter().zip(owners).enumerate() {
        let span = read(range, *owner);
        if !span.1.is_after(&span.0) {
            problems.push(format!("[{place}] is empty: `to` is not above `from`"));
        }
        spans.push((place, span));
    }
    spans.sort_by(|(_, a), (_, b)| a.0.cmp(&b.0));
    for pair in spans.windows(2) {
        let [(first, earlier), (second, later)] = pair else {
            continue;
        };
        if earlier.1.is_after(&later.0) {
            problems.push(format!("[{first}] and [{second}] overlap"));
        }
    }
    match problems.is_empty() {
        true => Ok(spans.into_iter().map(|(_, span)| span).collect()),
        false => Err(problems.join("; ")),
    }
}

impl Owner {
    /// Whether something in `zone` with these tags is one of the owner's.
    pub(crate) fn is_at<'a>(&self, zone: &str, tag: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Owner::Zone(own) => own == zone,
            Owner::Tag(key, value) => tag(key) == Some(value),
        }
    }

    /// As `rsf-shard` says it: `zone:west`, `tag:colour=blue`. `None` where no header can say it.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.to_string().as_bytes()).ok()
    }

    /// Reads what [`Owner::header`] wrote.
    pub(crate) fn from_header(value: &[u8]) -> Option<Owner> {
        let text = std::str::from_utf8(value).ok()?;
        if let Some(zone) = text.strip_prefix("zone:") {
            return Some(Owner::Zone(zone.to_owned()));
        }
        let (key, value) = text.strip_prefix("tag:")?.split_once('=')?;
        Some(Owner::Tag(key.to_owned(), value.to_owned()))
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Zone(zone) => write!(f, "zone:{zone}"),
            Owner::Tag(key, value) => write!(f, "tag:{key}={value}"),
        }
    }
}
