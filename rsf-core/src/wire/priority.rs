//! A call's priority as a header: read at the provider, written at the consumer, and handed down the chain of calls.

use http::HeaderValue;

use crate::policy::Priority;

/// Unknown words, perhaps of a later version, count as none.
pub(crate) fn read(value: &[u8]) -> Option<Priority> {
    match value {
        b"high" => Some(Priority::High),
        b"normal" => Some(Priority::Normal),
        b"low" => Some(Priority::Low),
        _ => None,
    }
}

/// `normal` too: where it comes from policy, a call further down must not rank above it.
pub(crate) fn write(priority: Priority) -> HeaderValue {
    HeaderValue::from_static(match priority {
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Low => "low",
    })
}

/// What a call is to carry: what policy says, but no more than the call has that it is made in.
pub(crate) fn inherited(policy: Option<Priority>, surrounding: Option<Priority>) -> Option<Priority> {
    match (policy, surrounding) {
        (Some(own), Some(outer)) => Some(own.min(outer)),
        (own, outer) => own.or(outer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for priority in [Priority::Low, Priority::Normal, Priority::High] {
            assert_eq!(read(write(priority).as_bytes()), Some(priority));
        }
        assert_eq!(read(b"urgent"), None);
    }

    #[test]
    fn a_call_inside_never_ranks_above_the_one_around_it() {
        use Priority::{High, Low, Normal};
        for (policy, surrounding, carried) in [
            (None, None, None),
            (Some(High), None, Some(High)),
            (None, Some(Low), Some(Low)),
            (Some(High), Some(Low), Some(Low)),
            (Some(Low), Some(High), Some(Low)),
            (Some(High), Some(Normal), Some(Normal)),
        ] {
            assert_eq!(inherited(policy, surrounding), carried);
        }
    }
}
