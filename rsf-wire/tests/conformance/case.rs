//! A case: what the peer says, and what the engine owes to it.

use rsf_wire::Limits;

use crate::peer::{Peer, Seen};
use crate::raw;

/// What the engine must do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    /// End the connection with one of these codes in its GOAWAY.
    GoAway(&'static [u32]),
    /// End this stream with one of these codes, and nothing else.
    Reset(u32, &'static [u32]),
    /// Answer on this stream, whole.
    Answer(u32),
    /// Go on, with neither RST_STREAM nor GOAWAY.
    Alive,
}

pub(crate) struct Case {
    /// As h2spec numbers it, or `-` where it does not have it.
    pub(crate) number: &'static str,
    pub(crate) name: &'static str,
    pub(crate) says: Vec<u8>,
    pub(crate) expect: Expect,
}

pub(crate) fn case(number: &'static str, name: &'static str, says: &[Vec<u8>], expect: Expect) -> Case {
    Case {
        number,
        name,
        says: says.concat(),
        expect,
    }
}

/// Runs all cases against a server, each on a connection of its own, and reports all that fail.
pub(crate) async fn run(limits: Limits, cases: Vec<Case>) {
    let mut failed = Vec::new();
    for case in &cases {
        let mut peer = Peer::greeted(limits.clone()).await;
        peer.say(&case.says).await;
        let (seen, alive) = peer.settle().await;
        if let Err(problem) = judge(case.expect, &seen, alive) {
            failed.push(format!(
                "{} {}: {problem}; it said {}",
                case.number,
                case.name,
                outline(&seen)
            ));
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} cases failed:\n{}",
        failed.len(),
        cases.len(),
        failed.join("\n")
    );
}

pub(crate) fn judge(expect: Expect, seen: &[Seen], alive: bool) -> Result<(), String> {
    let go_away = seen.iter().find(|frame| frame.kind == raw::GOAWAY);
    let mut resets = seen.iter().filter(|frame| frame.kind == raw::RST_STREAM);
    match expect {
        Expect::GoAway(codes) => match go_away {
            Some(frame) if codes.contains(&frame.code()) && !alive => Ok(()),
            Some(frame) => Err(format!("GOAWAY {codes:?} was due, {} came", frame.code())),
            None => Err(format!("GOAWAY {codes:?} was due")),
        },
        _ if !alive => Err(format!("it ended, {:?} was due", expect)),
        Expect::Reset(stream, codes) => match resets.next() {
            Some(frame) if frame.stream == stream && codes.contains(&frame.code()) => {
                let more = resets.next();
                more.map_or(Ok(()), |frame| Err(format!("one RST_STREAM too many: {frame:?}")))
            }
            Some(frame) => Err(format!("RST_STREAM {codes:?} was due, {frame:?} came")),
            None => Err(format!("RST_STREAM {codes:?} was due")),
        },
        Expect::Answer(stream) => {
            let answered = seen.iter().any(|frame| frame.stream == stream && frame.ends());
            let whole = seen.iter().any(|frame| frame.is(raw::HEADERS, stream));
            match (answered && whole, resets.find(|frame| frame.code() != 0)) {
                (true, None) => Ok(()),
                _ => Err("an answer was due".to_owned()),
            }
        }
        Expect::Alive => match resets.next() {
            None => Ok(()),
            Some(frame) => Err(format!("nothing was due, {frame:?} came")),
        },
    }
}

pub(crate) fn outline(seen: &[Seen]) -> String {
    let frames = seen.iter().map(|frame| match frame.kind {
        raw::GOAWAY => {
            let reason = String::from_utf8_lossy(&frame.payload[8..]);
            format!("GOAWAY {} ({reason})", frame.code())
        }
        raw::RST_STREAM => format!("RST_STREAM {} on {}", frame.code(), frame.stream),
        kind => format!("kind {kind} on {}", frame.stream),
    });
    frames.collect::<Vec<_>>().join(", ")
}
