//! The client's role: replies in all their forms, and what becomes of the call.

use rsf_wire::message::unframe;
use rsf_wire::{CallError, Fate, Limits, Reply};

use crate::case::{Expect, judge, outline};
use crate::peer::{PATIENCE, Peer, Seen};
use crate::raw::*;

pub(crate) struct ClientCase {
    pub(crate) number: &'static str,
    pub(crate) name: &'static str,
    pub(crate) says: Vec<u8>,
    pub(crate) expect: Expect,
    pub(crate) call: Outcome,
}

/// What the one call that is under way comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// `answer`, with status 0.
    Answered,
    /// This status, in trailers alone or behind a message.
    Status(u32),
    /// An error with this fate.
    Failed(Fate),
    /// Nothing yet.
    Pending,
}

pub(crate) fn case(
    number: &'static str,
    name: &'static str,
    says: &[Vec<u8>],
    expect: Expect,
    call: Outcome,
) -> ClientCase {
    ClientCase {
        number,
        name,
        says: says.concat(),
        expect,
        call,
    }
}

/// Plays a server to one call, case by case, and reports all that fail.
pub(crate) async fn run(cases: Vec<ClientCase>) {
    let mut failed = Vec::new();
    for case in &cases {
        let (mut peer, call) = Peer::of_client(Limits::default()).await;
        peer.say(&settings(&[])).await;
        peer.say(&case.says).await;
        let (seen, alive) = peer.settle().await;
        let engine = judge(case.expect, &seen, alive);
        if case.call == Outcome::Pending {
            assert!(!call.is_finished(), "{} {}", case.number, case.name);
            call.abort();
        } else {
            let outcome = match tokio::time::timeout(PATIENCE, call).await {
                Ok(outcome) => check(case.call, outcome.unwrap()),
                Err(_) => Err("the call hangs".to_owned()),
            };
            if let Err(problem) = outcome {
                failed.push(format!("{} {}: {problem}", case.number, case.name));
            }
        }
        if let Err(problem) = engine {
            let said = outline(&seen);
            failed.push(format!(
                "{} {}: {problem}; it said {said}",
                case.number, case.name
            ));
        }
    }
    let (count, all) = (failed.len(), cases.len());
    assert!(
        failed.is_empty(),
        "{count} of {all} failed:\n{}",
        failed.join("\n")
    );
}

fn check(expected: Outcome, came: Result<Reply, CallError>) -> Result<(), String> {
    let outcome = match &came {
        Ok(reply) => match (reply.grpc_status(), reply.body.as_ref().map(unframe)) {
            (Some(0), Ok(Ok(Some(message)))) if message == "answer" => Outcome::Answered,
            (Some(status), _) => Outcome::Status(status),
            (None, _) => return Err(format!("a reply without a status: {reply:?}")),
        },
        Err(error) => Outcome::Failed(error.fate),
    };
    match outcome == expected {
        true => Ok(()),
        false => Err(format!("{expected:?} was due, {came:?} came")),
    }
}

/// `:status 200` by index.
pub(crate) const OK: &[u8] = &[0x88];
pub(crate) const MESSAGE: &[u8] = b"\0\0\0\0\x06answer";

pub(crate) fn begun() -> Vec<u8> {
    headers(1, END_HEADERS, &reply_block())
}

pub(crate) fn reply_block() -> Vec<u8> {
    [OK.to_vec(), field("content-type", "application/grpc")].concat()
}

pub(crate) fn body() -> Vec<u8> {
    data(1, 0, MESSAGE)
}

pub(crate) fn trailers() -> Vec<u8> {
    headers(1, WHOLE, &field("grpc-status", "0"))
}

pub(crate) fn whole() -> Vec<u8> {
    [begun(), body(), trailers()].concat()
}

#[rustfmt::skip]
fn replies() -> Vec<ClientCase> {
    use Expect::{Alive, Reset};
    use Outcome::{Answered, Failed, Pending, Status};
    let malformed = Reset(1, &[PROTOCOL_ERROR]);
    let failed = Failed(Fate::Written);
    let padded_body = data(1, PADDED, &[&[3][..], MESSAGE, &[0; 3]].concat());
    let (one, two) = MESSAGE.split_at(3);
    let status = |text| headers(1, WHOLE, &[reply_block(), field("grpc-status", text)].concat());
    let with = |block: &[u8]| headers(1, END_HEADERS, &[&reply_block(), block].concat());
    let ended = |block: &[u8]| headers(1, WHOLE, block);
    let length = |length| with(&field("content-length", length));
    vec![
        case("-", "headers, message, trailers", &[whole()], Alive, Answered),
        case("-", "a message in pieces", &[begun(), data(1, 0, one), data(1, 0, b""), data(1, 0, two), trailers()], Alive, Answered),
        case("-", "a padded message", &[begun(), padded_body, trailers()], Alive, Answered),
        case("-", "trailers alone", &[status("5")], Alive, Status(5)),
        case("-", "trailers in CONTINUATION", &[begun(), body(), headers(1, END_STREAM, b""), continuation(1, END_HEADERS, &field("grpc-status", "0"))], Alive, Answered),
        case("-", "an interim reply first", &[headers(1, END_HEADERS, &field(":status", "103")), whole()], Alive, Answered),
        case("-", "an interim reply that ends", &[ended(&field(":status", "103"))], malformed, failed),
        case("-", "no :status", &[headers(1, END_HEADERS, &field("content-type", "application/grpc"))], malformed, failed),
        case("-", "a :status that is no number", &[headers(1, END_HEADERS, &field(":status", "2x0"))], malformed, failed),
        case("-", "two :status", &[headers(1, END_HEADERS, &[OK, OK].concat())], malformed, failed),
        case("-", "a request's pseudo-header", &[headers(1, END_HEADERS, &[OK, &field(":path", "/")].concat())], malformed, failed),
        case("-", "an unknown pseudo-header", &[headers(1, END_HEADERS, &[OK, &field(":odd", "/")].concat())], malformed, failed),
        case("-", "a pseudo-header behind a field", &[headers(1, END_HEADERS, &[&field("a", "b"), OK].concat())], malformed, failed),
        case("-", "a pseudo-header in trailers", &[begun(), body(), ended(&[&field("grpc-status", "0"), OK].concat())], malformed, failed),
        case("-", "an upper-case name", &[with(&field("X-Test", "1"))], malformed, failed),
        case("-", "connection", &[with(&field("connection", "close"))], malformed, failed),
        case("-", "transfer-encoding", &[with(&field("transfer-encoding", "chunked"))], malformed, failed),
        case("-", "a body before its headers", &[body()], malformed, failed),
        case("-", "trailers that do not end", &[begun(), body(), headers(1, END_HEADERS, &field("grpc-status", "0"))], malformed, failed),
        case("-", "content-length that holds", &[length("11"), body(), trailers()], Alive, Answered),
        case("-", "content-length that is passed", &[length("5"), body(), trailers()], malformed, failed),
        case("-", "content-length that is not reached", &[length("12"), body(), trailers()], malformed, failed),
        case("-", "only headers so far", &[begun()], Alive, Pending),
    ]
}

#[rustfmt::skip]
fn ends() -> Vec<ClientCase> {
    use Expect::{Alive, GoAway};
    use Outcome::{Answered, Failed, Pending};
    let refused = Failed(Fate::Refused);
    let written = Failed(Fate::Written);
    let closed = GoAway(&[STREAM_CLOSED]);
    vec![
        case("-", "REFUSED_STREAM", &[reset(1, REFUSED_STREAM)], Alive, refused),
        case("-", "CANCEL", &[reset(1, CANCEL)], Alive, written),
        case("-", "RST_STREAM with an unknown code", &[reset(1, 0xff)], Alive, written),
        case("-", "GOAWAY below the call", &[go_away(0, 0)], Alive, refused),
        case("-", "GOAWAY above the call", &[go_away(1, 0)], Alive, Pending),
        case("-", "GOAWAY above the call, then the reply", &[go_away(1, 0), whole()], Alive, Answered),
        case("-", "GOAWAY below a call whose reply has begun", &[begun(), go_away(0, 0)], Alive, written),
        case("-", "GOAWAY in two steps", &[go_away(0x7fff_ffff, 0), go_away(0, 0)], Alive, refused),
        case("-", "GOAWAY that takes its word back", &[go_away(0, 0), go_away(1, 0)], Alive, refused),
        case("-", "GOAWAY with an unknown code", &[go_away(1, 0xff)], Alive, Pending),
        case("client/5.1/5", "closed by RST_STREAM: DATA", &[reset(1, CANCEL), body()], closed, written),
        case("client/5.1/6", "closed by RST_STREAM: HEADERS", &[reset(1, CANCEL), begun()], closed, written),
        case("client/5.1/8", "closed: DATA", &[whole(), body()], closed, Answered),
        case("client/5.1/9", "closed: HEADERS", &[whole(), begun()], closed, Answered),
        case("-", "closed: RST_STREAM", &[whole(), reset(1, 0)], Alive, Answered),
        case("-", "closed: WINDOW_UPDATE", &[whole(), window_update(1, 9)], Alive, Answered),
        case("-", "the reply to a call that we reset", &[headers(1, END_HEADERS, b"\x08\x01x"), body(), trailers()], Expect::Reset(1, &[PROTOCOL_ERROR]), written),
    ]
}

#[tokio::test]
async fn replies_are_read_and_malformed_ones_fail_their_call_alone() {
    run(replies()).await;
}

#[tokio::test]
async fn calls_end_with_the_right_fate() {
    run(ends()).await;
}

#[tokio::test]
async fn a_server_that_hangs_up_fails_the_call() {
    for (says, fate) in [
        (settings(&[]), Fate::Written),
        ([settings(&[]), go_away(0, 0)].concat(), Fate::Refused),
        ([settings(&[]), begun()].concat(), Fate::Written),
        (frame(SETTINGS, 0, 0, b"")[..5].to_vec(), Fate::Written),
    ] {
        let (mut peer, call) = Peer::of_client(Limits::default()).await;
        peer.say(&says).await;
        peer.hang_up().await;
        assert_eq!(call.await.unwrap().unwrap_err().fate, fate, "{says:?}");
    }
}

#[tokio::test]
async fn a_cancelled_call_may_still_be_answered_for_a_while() {
    let (mut peer, call) = Peer::of_client(Limits::default()).await;
    peer.say(&settings(&[])).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // The client went with its call: it tells so, and leaves.
    let seen = peer.until(|frame: &Seen| frame.kind == GOAWAY).await.unwrap();
    assert_eq!(seen.last().unwrap().code(), 0);
    assert!(
        seen.iter()
            .any(|frame| frame.is(RST_STREAM, 1) && frame.code() == CANCEL),
        "{seen:?}"
    );
}
