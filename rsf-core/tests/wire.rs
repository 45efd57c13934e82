//! What every wire must do, the same suite over each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where its surroundings fail"
)]

#[macro_use]
mod support;

#[path = "support/line.rs"]
mod line;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use line::{Line, connect, read, reason, refused, request, soon};
use prost::Message as _;
use rsf_core::context::Context;
use rsf_core::message::Response;
use rsf_core::metadata::Metadata;
use rsf_core::outcome::Reason;
use rsf_core::server::Provider;
use rsf_core::status::{Code, Status};
use rsf_core::wire::{ConnectionState, Fate, Frame, MAX_MESSAGE_BYTES, RequestId, Target};
use support::{Echo, Fleet, Kind, Note, note, number};

async fn a_message_comes_back(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let reply = line.ask(&note("hello")).await.unwrap();
    assert_eq!(read(&reply).text, "hello");
}

async fn an_empty_message_comes_back(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    assert_eq!(read(&line.ask(&Note::default()).await.unwrap()), Note::default());
}

async fn metadata_goes_both_ways(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let mut request = request("Get", &note(""));
    request.metadata.insert("tenant", "north 7").unwrap();
    request
        .metadata
        .insert_bin("token-bin", &[0, 1, 254, 255])
        .unwrap();
    let reply = soon(line.send(request)).await.unwrap();
    assert_eq!(reply.metadata.get("tenant"), Some("north 7"));
    assert_eq!(
        reply.metadata.get("Tenant"),
        Some("north 7"),
        "names have no case"
    );
    assert_eq!(reply.metadata.get_bin("token-bin").unwrap(), [0, 1, 254, 255]);
}

async fn a_status_comes_back_whole(kind: Kind) {
    let mut metadata = Metadata::new();
    metadata.insert("hint", "elsewhere").unwrap();
    metadata.insert_bin("hint-bin", &[9]).unwrap();
    let status = Status::not_found("kein Mitglied 7 % \u{4f1a}\u{5458}\n%41")
        .with_details(vec![8, 5, 18, 255])
        .with_metadata(metadata);
    let line = Line::to(kind, Echo::failing(status.clone())).await;
    let reply = line.ask(&note("")).await.unwrap();
    assert_eq!(reply.metadata.get("hint"), Some("elsewhere"));
    let came = refused(Ok(reply));
    assert_eq!(
        (came.code(), came.message(), came.details()),
        (status.code(), status.message(), status.details())
    );
    assert_eq!(came.metadata().get("hint"), Some("elsewhere"));
    assert_eq!(came.metadata().get_bin("hint-bin").unwrap(), [9]);
    assert_eq!(
        reason(&came),
        None,
        "the handler's own errors carry no reason of RSF's"
    );
}

async fn a_status_without_message_comes_back(kind: Kind) {
    let line = Line::to(kind, Echo::failing(Status::data_loss(""))).await;
    let came = refused(line.ask(&note("")).await);
    assert_eq!((came.code(), came.message()), (Code::DataLoss, ""));
}

/// A note that encodes to exactly so many bytes.
fn of_size(bytes: usize) -> Note {
    let mut note = Note {
        data: Bytes::from(vec![7; bytes]),
        ..Note::default()
    };
    let over = note.encoded_len() - bytes;
    note.data.truncate(bytes - over);
    assert_eq!(note.encoded_len(), bytes);
    note
}

async fn a_message_up_to_the_limit_comes_back(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    for size in [65_535, 1 << 20, MAX_MESSAGE_BYTES - 1, MAX_MESSAGE_BYTES] {
        let message = of_size(size);
        let reply = line.ask(&message).await.unwrap();
        assert!(read(&reply) == message, "{size} bytes came back changed");
    }
}

async fn a_message_over_the_limit_is_refused(kind: Kind) {
    let echo = Echo::plain();
    let line = Line::to(kind, echo.clone()).await;
    for size in [MAX_MESSAGE_BYTES + 1, 3 * MAX_MESSAGE_BYTES] {
        let came = refused(line.ask(&of_size(size)).await);
        assert_eq!(
            (came.code(), reason(&came)),
            (Code::ResourceExhausted, Some(Reason::TooLarge)),
            "{came}"
        );
        assert!(came.message().contains("at most 4194304"), "{came}");
        line.lives().await;
    }
    assert_eq!(echo.counts().began, 2, "the handler saw none of them");
}

async fn a_reply_over_the_limit_is_an_error(kind: Kind) {
    let echo = Echo::with(|_, request| async move {
        Ok(Response::new(of_size(request.get_ref().number.max(100) as usize)))
    });
    let line = Line::to(kind, echo).await;
    let came = refused(line.ask(&number(MAX_MESSAGE_BYTES as u32 + 1)).await);
    assert_eq!(reason(&came), Some(Reason::TooLarge), "{came}");
    line.ask(&number(1)).await.unwrap();
}

async fn an_unknown_method_names_what_is_there(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    for path in ["/test.v1.Echo/Nope", "/test.v1.Other/Get", "/", "/x"] {
        let mut request = request("Get", &note(""));
        request.path = path.parse().unwrap();
        let came = refused(soon(line.send(request)).await);
        assert_eq!(came.code(), Code::Unimplemented);
        assert_eq!(reason(&came), Some(Reason::Unimplemented));
        assert!(
            came.message().contains(path) && came.message().contains("test.v1.Echo"),
            "{came}"
        );
    }
    line.lives().await;
}

async fn an_unknown_implementation_is_refused(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let mut request = request("Get", &note(""));
    request.implementation = Some("gold".parse().unwrap());
    let came = refused(soon(line.send(request)).await);
    assert_eq!(came.code(), Code::Unimplemented);
    assert!(came.message().contains("gold"), "{came}");
}

async fn the_timeout_arrives(kind: Kind) {
    let echo = Echo::with(|_, _| async {
        let left = Context::current().and_then(|context| context.remaining());
        Ok(Response::new(number(
            left.map_or(0, |left| left.as_millis() as u32),
        )))
    });
    let line = Line::to(kind, echo).await;
    assert_eq!(
        read(&line.ask(&note("")).await.unwrap()).number,
        0,
        "none was sent"
    );
    let mut timed = request("Get", &note(""));
    timed.timeout = Some(Duration::from_secs(60));
    let left = read(&soon(line.send(timed)).await.unwrap()).number;
    assert!((30_000..=60_000).contains(&left), "{left} ms of 60 s were left");
    let mut late = request("Get", &note(""));
    late.timeout = Some(Duration::ZERO);
    let came = refused(soon(line.send(late)).await);
    assert_eq!(
        (came.code(), reason(&came)),
        (Code::DeadlineExceeded, Some(Reason::Deadline))
    );
}

async fn what_identifies_the_call_arrives(kind: Kind) {
    let echo = Echo::with(|_, _| async {
        let context = Context::current().unwrap();
        let trace = context.trace().unwrap();
        let text = format!(
            "{} {} {:x} {:x} {}",
            context.caller().unwrap(),
            context.request_id().unwrap(),
            trace.trace_id,
            trace.span_id,
            context
                .metadata()
                .get("grpc-previous-rpc-attempts")
                .unwrap_or_default()
        );
        Ok(Response::new(note(&text)))
    });
    let line = Line::to(kind, echo).await;
    let mut request = request("Put", &note(""));
    request.caller = Some("shop".parse().unwrap());
    request.request_id = RequestId::Text("order-7".parse().unwrap());
    request.trace =
        rsf_core::wire::TraceParent::parse("00-0000000000000000000000000000abcd-00000000000000ef-01");
    request.previous_attempts = 2;
    request
        .metadata
        .insert(
            "traceparent",
            "00-00000000000000000000000000000001-0000000000000001-00",
        )
        .unwrap();
    let reply = soon(line.send(request)).await.unwrap();
    assert_eq!(read(&reply).text, "shop order-7 abcd ef 2");
}

async fn a_dropped_exchange_drops_the_handler(kind: Kind) {
    let echo = Echo::silent();
    let line = Line::to(kind, echo.clone()).await;
    // Held by a task, because a handler runs only while its exchange is polled or its server reads.
    let exchange = line.send(request("Put", &note("")));
    let asked = tokio::spawn(exchange);
    echo.seen()
        .until("the handler began", |counts| counts.began == 1)
        .await;
    asked.abort();
    echo.seen()
        .until("the handler was dropped", |counts| counts.dropped == 1)
        .await;
    assert_eq!(echo.counts().ended, 0);
}

async fn many_calls_share_a_connection(kind: Kind) {
    let echo = Echo::with(|_, request| async move {
        // Finishes in another order than it began.
        tokio::time::sleep(Duration::from_millis(u64::from(request.get_ref().number % 7))).await;
        Ok(Response::new(request.into_inner()))
    });
    let line = Line::to(kind, echo).await;
    let asked = (0..2000).map(|place| async move { (place, place) }).map(|pair| {
        let line = &line;
        async move {
            let (place, _) = pair.await;
            assert_eq!(read(&line.ask(&number(place)).await.unwrap()).number, place);
        }
    });
    futures_util::future::join_all(asked).await;
}

async fn death_tells_running_and_new_calls_apart(kind: Kind) {
    let echo = Echo::silent();
    let mut line = Line::to(kind, echo.clone()).await;
    let running = tokio::spawn(line.send(request("Put", &note(""))));
    echo.seen()
        .until("the handler began", |counts| counts.began == 1)
        .await;
    let mut state = line.connection.state();
    assert_eq!(*state.borrow(), ConnectionState::Ready);
    line.node.kill();
    let broken = soon(running).await.unwrap().unwrap_err();
    assert_eq!(broken.fate, Fate::Written, "{broken}");
    soon(state.wait_for(|state| *state == ConnectionState::Closed))
        .await
        .unwrap();
    let late = line.ask(&note("")).await.unwrap_err();
    assert_eq!(late.fate, Fate::NotWritten, "{late}");
    let target = Target {
        address: line.node.address().into(),
        keepalive: None,
    };
    let refused = soon(line.fleet.wire().connect(&target)).await;
    assert!(refused.err().unwrap().to_string().contains(line.node.address()));
}

async fn a_drain_lets_running_calls_finish(kind: Kind) {
    let release = Arc::new(tokio::sync::Notify::new());
    let echo = Echo::with({
        let release = release.clone();
        move |_, request| {
            let release = release.clone();
            async move {
                release.notified().await;
                Ok(Response::new(request.into_inner()))
            }
        }
    });
    let line = Line::to(kind, echo.clone()).await;
    let running = tokio::spawn(line.send(request("Put", &note("patient"))));
    echo.seen()
        .until("the handler began", |counts| counts.began == 1)
        .await;
    line.node.drain();
    // The peer's GOAWAY takes a moment to arrive; from then on nothing is taken, and nothing was written.
    let late = async {
        loop {
            let asked =
                tokio::time::timeout(Duration::from_millis(50), line.send(request("Get", &note("")))).await;
            if let Ok(Err(error)) = asked {
                return error;
            }
        }
    };
    let late = soon(late).await;
    assert!(matches!(late.fate, Fate::NotWritten | Fate::Refused), "{late}");
    assert_ne!(*line.connection.state().borrow(), ConnectionState::Ready);
    release.notify_waiters();
    release.notify_one();
    let reply = soon(running).await.unwrap().unwrap();
    assert_eq!(read(&reply).text, "patient");
    let mut state = line.connection.state();
    soon(state.wait_for(|state| *state == ConnectionState::Closed))
        .await
        .unwrap();
}

async fn a_closed_connection_finishes_its_calls(kind: Kind) {
    let echo = Echo::slow(Duration::from_millis(100));
    let line = Line::to(kind, echo.clone()).await;
    let running = tokio::spawn(line.send(request("Put", &note("patient"))));
    echo.seen()
        .until("the handler began", |counts| counts.began == 1)
        .await;
    line.connection.close();
    assert_eq!(*line.connection.state().borrow(), ConnectionState::Draining);
    assert_eq!(line.ask(&note("")).await.unwrap_err().fate, Fate::NotWritten);
    assert_eq!(read(&soon(running).await.unwrap().unwrap()).text, "patient");
    let mut state = line.connection.state();
    soon(state.wait_for(|state| *state == ConnectionState::Closed))
        .await
        .unwrap();
}

async fn a_message_of_another_type_is_malformed(kind: Kind) {
    let line = Line::to(kind, Echo::plain()).await;
    let mut request = request("Get", &note(""));
    request.frame = Frame::from_message(&[0x0a, 0xff, 0xff]).unwrap();
    let came = refused(soon(line.send(request)).await);
    assert_eq!(
        (came.code(), reason(&came)),
        (Code::Internal, Some(Reason::Malformed))
    );
    line.lives().await;
}

async fn implementations_stand_side_by_side(kind: Kind) {
    let answering = |text: &'static str| Echo::with(move |_, _| async move { Ok(Response::new(note(text))) });
    let fleet = Fleet::new(kind);
    let builder = Provider::builder()
        .service("", answering("plain"))
        .service("gold", answering("gold"));
    let node = fleet.start(builder, |_| {});
    let connection = connect(&fleet, &node).await;
    for (implementation, text) in [(None, "plain"), (Some("gold"), "gold")] {
        let mut request = request("Get", &note(""));
        request.implementation = implementation.map(|name| name.parse().unwrap());
        let reply = soon(request.over(&connection)).await.unwrap();
        assert_eq!(read(&reply).text, text);
    }
}

/// `xds.data.orca.v3.OrcaLoadReport`, the field that RSF reports in.
#[derive(Clone, PartialEq, prost::Message)]
struct LoadReport {
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

async fn a_load_report_comes_back_when_the_load_changes(kind: Kind) {
    let failing = Echo::with(|_, request| async move {
        match request.get_ref().number {
            0 => Ok(Response::new(request.into_inner())),
            _ => Err(Status::not_found("")),
        }
    });
    let line = Line::to(kind, failing).await;
    let report = |metadata: &Metadata| {
        let bytes = metadata.get_bin("endpoint-load-metrics-bin")?;
        Some(LoadReport::decode(&*bytes).unwrap().application_utilization)
    };
    let reply = line.ask(&note("")).await.unwrap();
    assert_eq!(report(&reply.metadata), None, "idle from the beginning");
    line.node.provider.set_application_utilization(0.75);
    let reply = line.ask(&note("busy")).await.unwrap();
    assert_eq!(read(&reply).text, "busy");
    assert_eq!(report(&reply.metadata), Some(0.75));
    assert_eq!(
        report(&line.ask(&note("")).await.unwrap().metadata),
        None,
        "it has not changed"
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    line.node.provider.set_application_utilization(0.25);
    let came = refused(line.ask(&number(1)).await);
    assert_eq!(
        (came.code(), report(came.metadata())),
        (Code::NotFound, Some(0.25)),
        "errors carry it as well"
    );
}

on_all_wires! {
    a_message_comes_back
    an_empty_message_comes_back
    metadata_goes_both_ways
    a_status_comes_back_whole
    a_status_without_message_comes_back
    a_message_up_to_the_limit_comes_back
    a_message_over_the_limit_is_refused
    a_reply_over_the_limit_is_an_error
    an_unknown_method_names_what_is_there
    an_unknown_implementation_is_refused
    the_timeout_arrives
    what_identifies_the_call_arrives
    a_dropped_exchange_drops_the_handler
    many_calls_share_a_connection
    death_tells_running_and_new_calls_apart
    a_drain_lets_running_calls_finish
    a_closed_connection_finishes_its_calls
    a_message_of_another_type_is_malformed
    implementations_stand_side_by_side
    a_load_report_comes_back_when_the_load_changes
}
