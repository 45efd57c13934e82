//! Schedules of calls between the engine and the h2 crate, by proptest: whatever both do when, calls that nobody gave up
//! are answered whole, and neither end finds fault with the other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use rsf_wire::client::Ended;
use rsf_wire::server::Handling;
use rsf_wire::{Call, Client, Handler, Limits, Literals, Request, Response, serve};

/// One call's part of a schedule.
#[derive(Debug, Clone)]
struct Plan {
    asks: usize,
    answers: usize,
    /// Milliseconds until it begins, until it is answered, and until it is given up.
    begins: u64,
    takes: u64,
    given_up: Option<u64>,
    /// Which value its header has: tables and memos meet old and new ones.
    note: u8,
    /// Bytes that h2 sends or gives back at once.
    step: usize,
    fails: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let size = || prop_oneof![0..300usize, Just(0), 16_000..17_000usize, 60_000..140_000usize];
    let time = || prop_oneof![Just(0u64), 0..20u64];
    let given_up = prop_oneof![3 => Just(None), 1 => (0..25u64).prop_map(Some)];
    (
        size(),
        size(),
        time(),
        time(),
        given_up,
        0..4u8,
        1_000..40_000usize,
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(asks, answers, begins, takes, given_up, note, step, fails)| Plan {
                asks,
                answers,
                begins,
                takes,
                given_up,
                note,
                step,
                fails,
            },
        )
}

/// What both ends announce, and the pipe between them.
#[derive(Debug, Clone)]
struct Settings {
    window: u32,
    connection_window: u32,
    table: u32,
    streams: u32,
    pipe: usize,
    unwritten: usize,
}

fn settings() -> impl Strategy<Value = Settings> {
    (
        prop_oneof![Just(65_535u32), 500..3_000u32, Just(1 << 20)],
        prop_oneof![Just(65_535u32), Just(1 << 22)],
        prop_oneof![Just(4_096u32), Just(0), 30..200u32],
        prop_oneof![Just(100u32), 1..4u32],
        prop_oneof![Just(1usize << 16), 30..300usize],
        prop_oneof![Just(256usize * 1024), 500..5_000usize],
    )
        .prop_map(
            |(window, connection_window, table, streams, pipe, unwritten)| Settings {
                window,
                connection_window,
                table,
                streams,
                pipe,
                unwritten,
            },
        )
}

fn limits(settings: &Settings) -> Limits {
    Limits {
        stream_window: settings.window,
        connection_window: settings.connection_window,
        unwritten_bytes: settings.unwritten,
        concurrent_streams: settings.streams.max(100),
        ..Limits::default()
    }
}

const IN_TIME: Duration = Duration::from_secs(600);

fn message(size: usize) -> Bytes {
    rsf_wire::message::frame(&vec![7; size]).unwrap()
}

fn notes(plan: &Plan) -> [(&'static str, String); 4] {
    [
        ("x-note", format!("note {}", plan.note)),
        ("x-takes", plan.takes.to_string()),
        ("x-answers", plan.answers.to_string()),
        ("x-fails", plan.fails.to_string()),
    ]
}

async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}

/// Sends a body as the peer's window lets it, in steps.
async fn send(
    stream: &mut h2::SendStream<Bytes>,
    mut body: Bytes,
    step: usize,
    end: bool,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(step));
        let Some(room) = std::future::poll_fn(|cx| stream.poll_capacity(cx))
            .await
            .transpose()?
        else {
            return Ok(());
        };
        let part = body.split_to(room.min(body.len()));
        stream.send_data(part, end && body.is_empty())?;
    }
    Ok(())
}

async fn read(stream: &mut h2::RecvStream) -> Result<usize, h2::Error> {
    let mut size = 0;
    while let Some(piece) = stream.data().await.transpose()? {
        size += piece.len();
        stream.flow_control().release_capacity(piece.len())?;
    }
    Ok(size)
}

/// The engine's server: answers as its request's headers ask.
struct Obedient;

impl Handler for Obedient {
    fn call(&self, call: Call) -> Option<Handling> {
        Some(Box::pin(async move {
            let number = |name: &str| -> u64 {
                let text = std::str::from_utf8(call.headers.get(name).unwrap()).unwrap();
                text.parse().unwrap()
            };
            pause(number("x-takes")).await;
            if call.headers.get("x-fails") == Some(b"true") {
                return Response::status(5, "as planned");
            }
            let mut headers = Literals::new();
            let asked = call.body.as_ref().unwrap().len().to_string();
            headers.push("x-asked", asked.as_bytes()).unwrap();
            Response::Message {
                headers,
                body: message(number("x-answers") as usize),
                trailers: None,
            }
        }))
    }
}

/// h2 calls once; what is wrong with what came.
async fn h2_call(client: h2::client::SendRequest<Bytes>, plan: Plan) -> Result<(), String> {
    pause(plan.begins).await;
    let mut client = client.ready().await.map_err(|error| error.to_string())?;
    let mut request = http::Request::post("http://test/t").header("content-type", "application/grpc");
    for (name, value) in notes(&plan) {
        request = request.header(name, value);
    }
    let sent = client.send_request(request.body(()).unwrap(), false);
    let (reply, mut outgoing) = sent.map_err(|error| error.to_string())?;
    let whole = async {
        // A server may answer before it has all.
        let _ = send(&mut outgoing, message(plan.asks), plan.step, true).await;
        let reply = reply.await.map_err(|error| error.to_string())?;
        let asked = reply
            .headers()
            .get("x-asked")
            .map(|value| value.to_str().unwrap().to_owned());
        let status = reply.headers().get("grpc-status").cloned();
        let mut body = reply.into_body();
        let size = read(&mut body).await.map_err(|error| error.to_string())?;
        let trailers = body.trailers().await.map_err(|error| error.to_string())?;
        let status = status.or_else(|| trailers.and_then(|trailers| trailers.get("grpc-status").cloned()));
        let expected = match plan.fails {
            true => (None, 0, "5"),
            false => (Some((plan.asks + 5).to_string()), plan.answers + 5, "0"),
        };
        let got = (
            asked,
            size,
            status.as_ref().map_or("", |status| status.to_str().unwrap()),
        );
        if got == expected {
            Ok(())
        } else {
            Err(format!("{got:?} came, {expected:?} was due"))
        }
    };
    match plan.given_up {
        None => whole.await,
        Some(after) => match tokio::time::timeout(Duration::from_millis(after), whole).await {
            Ok(outcome) => outcome,
            Err(_) => {
                outgoing.send_reset(h2::Reason::CANCEL);
                Ok(())
            }
        },
    }
}

async fn h2_to_engine(settings: Settings, plans: Vec<Plan>) -> Result<(), String> {
    let (near, far) = tokio::io::duplex(settings.pipe);
    let served = tokio::spawn(serve(
        far,
        Arc::new(Obedient),
        limits(&settings),
        std::future::pending(),
    ));
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(settings.window)
        .initial_connection_window_size(settings.connection_window)
        .header_table_size(settings.table);
    let (client, connection) = builder
        .handshake::<_, Bytes>(near)
        .await
        .map_err(|error| error.to_string())?;
    let driven = tokio::spawn(connection);
    let mut calls = tokio::task::JoinSet::new();
    for plan in plans {
        calls.spawn(h2_call(client.clone(), plan));
    }
    drop(client);
    while let Some(call) = calls.join_next().await {
        call.unwrap()?;
    }
    driven
        .await
        .unwrap()
        .map_err(|error| format!("h2 ends with {error}"))?;
    match served.await.unwrap() {
        // h2 hangs up when its last call is given up, whatever is under way to it.
        Ok(()) | Err(Ended::Io(_)) => Ok(()),
        Err(error) => Err(format!("the engine ends with {error}")),
    }
}

/// h2's server answers one request as its headers ask.
async fn h2_answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let text = |name: &str| request.headers()[name].to_str().unwrap().to_owned();
    let (takes, answers, fails) = (text("x-takes"), text("x-answers"), text("x-fails"));
    let asked = read(&mut request.into_body()).await?;
    pause(takes.parse().unwrap()).await;
    let response = http::Response::builder().header("content-type", "application/grpc");
    if fails == "true" {
        let response = response.header("grpc-status", "5").body(()).unwrap();
        respond.send_response(response, true)?;
        return Ok(());
    }
    let response = response.header("x-asked", asked.to_string()).body(()).unwrap();
    let mut stream = respond.send_response(response, false)?;
    send(&mut stream, message(answers.parse().unwrap()), 10_000, false).await?;
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers)
}

async fn engine_call(client: Arc<Client>, plan: Plan) -> Result<(), String> {
    pause(plan.begins).await;
    let notes = notes(&plan);
    let mut varying = Literals::new();
    for (name, value) in &notes[1..] {
        varying.push(name, value.as_bytes()).unwrap();
    }
    let constant = [(notes[0].0, notes[0].1.as_bytes())];
    let call = client.call(Request {
        path: "/t",
        constant: &constant,
        varying,
        body: message(plan.asks),
    });
    let outcome = match plan.given_up {
        None => call.await,
        Some(after) => match tokio::time::timeout(Duration::from_millis(after), call).await {
            Ok(outcome) => outcome,
            Err(_) => return Ok(()),
        },
    };
    let reply = outcome.map_err(|error| error.to_string())?;
    let size = reply.body.as_ref().map_err(|error| error.to_string())?.len();
    let asked = reply.headers.get("x-asked").map(<[u8]>::to_vec);
    let expected = match plan.fails {
        true => (None, 0, Some(5)),
        false => (
            Some((plan.asks + 5).to_string().into_bytes()),
            plan.answers + 5,
            Some(0),
        ),
    };
    let got = (asked, size, reply.grpc_status());
    if got == expected {
        Ok(())
    } else {
        Err(format!("{got:?} came, {expected:?} was due"))
    }
}

async fn engine_to_h2(settings: Settings, plans: Vec<Plan>) -> Result<(), String> {
    let (near, far) = tokio::io::duplex(settings.pipe);
    let announced = settings.clone();
    let served = tokio::spawn(async move {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(announced.window)
            .initial_connection_window_size(announced.connection_window)
            .header_table_size(announced.table)
            .max_concurrent_streams(announced.streams)
            // Calls that are given up before they are accepted are no attack here.
            .max_pending_accept_reset_streams(1_000);
        let mut connection = builder.handshake::<_, Bytes>(far).await?;
        while let Some(request) = connection.accept().await {
            let (request, respond) = request?;
            // A call that is given up breaks its answer off.
            tokio::spawn(async move { drop(h2_answer(request, respond).await) });
        }
        Ok::<_, h2::Error>(())
    });
    let (client, connection) = Client::new(near, "test", limits(&settings), |_| {});
    let driven = tokio::spawn(connection);
    let client = Arc::new(client);
    // The first one learns how many streams the peer admits.
    let first = Plan {
        asks: 0,
        answers: 0,
        begins: 0,
        takes: 0,
        given_up: None,
        note: 0,
        step: 1,
        fails: false,
    };
    engine_call(client.clone(), first).await?;
    let mut calls = tokio::task::JoinSet::new();
    for plan in plans {
        calls.spawn(engine_call(client.clone(), plan));
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap()?;
    }
    if client.pending() > 0 {
        return Err(format!("{} slots are left", client.pending()));
    }
    client.close();
    driven
        .await
        .unwrap()
        .map_err(|error| format!("the engine ends with {error}"))?;
    served
        .await
        .unwrap()
        .map_err(|error| format!("h2 ends with {error}"))
}

fn run(schedule: impl Future<Output = Result<(), String>>) -> Result<(), TestCaseError> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    let outcome = runtime.block_on(async { tokio::time::timeout(IN_TIME, schedule).await });
    match outcome {
        Ok(outcome) => outcome.map_err(TestCaseError::fail),
        Err(_) => Err(TestCaseError::fail("it hangs")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn h2_calls_the_engine(settings in settings(), plans in proptest::collection::vec(plan(), 1..20)) {
        run(h2_to_engine(settings, plans))?;
    }

    #[test]
    fn the_engine_calls_h2(settings in settings(), plans in proptest::collection::vec(plan(), 1..20)) {
        run(engine_to_h2(settings, plans))?;
    }
}
