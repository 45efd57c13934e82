//! What goes along with calls: colours down the chain, retries in their pool, the headers of tonic clients.

use super::*;

/// An echo that asks `next` in its handler, and answers with the ids down the chain.
fn chained(fleet: &Fleet, id: &'static str, tags: &[(&str, &str)], next: Option<Arc<Peer>>) -> Node {
    let echo = Echo::with(move |_, request: Request<Note>| {
        let next = next.clone();
        async move {
            let further = match next {
                Some(next) => format!(">{}", answer(&next, request.into_inner()).await?),
                None => String::new(),
            };
            Ok(Response::new(note(&format!("{id}{further}"))))
        }
    });
    fleet.provide_as(place(id, "", tags), echo)
}

#[tokio::test(start_paused = true)]
async fn a_colour_travels_down_the_chain() {
    // a → b → c, each a fleet with a plain instance; b and c have blue ones, and b has no rule of its own.
    let (b, c) = (Fleet::in_test(), Fleet::in_test());
    let dye = |tag: &str, fallback: bool| json!([{"dye": {"tag": tag, "metadata": "x-colour", "fallback": fallback}}]);
    let _c = [
        chained(&c, "c", &[], None),
        chained(&c, "c-blue", &[("colour", "blue")], None),
    ];
    let to_c = Arc::new(consumer(&c, "b", ""));
    to_c.connected(2).await;
    rules(&c, &to_c, 1, json!([{"dye": {"tag": "colour"}}])).await;
    let _b = [
        chained(&b, "b", &[], Some(to_c.clone())),
        chained(&b, "b-blue", &[("colour", "blue")], Some(to_c.clone())),
    ];
    let peer = consumer(&b, "a", "");
    peer.connected(2).await;
    rules(&b, &peer, 1, dye("colour", true)).await;
    let ask = async |colour: Option<&str>| {
        let metadata = colour.map_or_else(Metadata::new, |colour| with(&[("x-colour", colour)]));
        let mut answers = BTreeMap::new();
        for _ in 0..30 {
            let reply = peer.get(number(1)).metadata(metadata.clone()).await;
            let answer = reply.map_or_else(
                |error| error.message().to_owned(),
                |reply| reply.into_inner().text,
            );
            *answers.entry(answer).or_insert(0) += 1;
        }
        answers.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(ask(None).await, ["b>c"]);
    assert_eq!(ask(Some("blue")).await, ["b-blue>c-blue"]);
    // Nobody is green: the plain ones serve, and the colour goes on down.
    assert_eq!(ask(Some("green")).await, ["b>c"]);
    rules(&b, &peer, 2, dye("colour", false)).await;
    let refused = ask(Some("green")).await;
    assert!(
        refused[0].contains("(dye → tag colour=green, the call's colour) left none of 2"),
        "{refused:?}"
    );
    // The colour is not b's to know: whom it calls goes by it all the same.
    rules(
        &b,
        &peer,
        3,
        json!([{"dye": {"tag": "none", "metadata": "x-colour"}}]),
    )
    .await;
    assert_eq!(ask(Some("blue")).await, ["b-blue>c-blue", "b>c-blue"]);
    // Other metadata colours it.
    rules(
        &b,
        &peer,
        4,
        json!([{"dye": {"tag": "colour", "metadata": "x-other"}}]),
    )
    .await;
    assert_eq!(ask(Some("blue")).await, ["b>c"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_stays_in_its_pool_when_the_sets_change_meanwhile() {
    let fleet = Fleet::in_test();
    let [blue, green, red] = ["blue", "green", "red"].map(|colour| {
        let echo = Echo::with(move |_, _| async move {
            match Context::current()
                .unwrap()
                .metadata()
                .get("grpc-previous-rpc-attempts")
            {
                Some(_) => Ok(Response::new(note(colour))),
                None => Err(Status::unavailable("busy").retry_after(Duration::from_millis(200))),
            }
        });
        let node = fleet.provide_as(place(colour, "", &[("colour", colour)]), echo.clone());
        (echo, node)
    });
    fleet.list(|listed| listed.retain(|instance| *instance.id != *"red"));
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;
    rules(
        &fleet,
        &peer,
        1,
        json!([{"dye": {"tag": "colour", "metadata": "x-colour"}}]),
    )
    .await;
    let request = Request::from_parts(note(""), with(&[("x-colour", "blue")]));
    let change = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        // By their names, the green set now has the place that was the blue one's.
        fleet.list(|listed| {
            listed.retain(|instance| *instance.id != *"blue");
            listed.push(red.1.instance.clone());
        });
    };
    let call = peer.channel.call::<Note>(GET, request).into_future();
    let (reply, ()) = tokio::join!(call, change);
    assert_eq!(reply.unwrap().get_ref().text, "blue");
    assert_eq!(
        [&blue, &green, &red].map(|(echo, _)| echo.counts().began),
        [2, 0, 0]
    );
}

#[tokio::test(start_paused = true)]
async fn a_subset_of_each_pool_is_connected_and_counted() {
    let fleet = Fleet::in_test();
    fleet.service_policy(
        1,
        &json!({"call": {
            "connections": {"subset": 3, "floor": 6},
            "node_breaker": {"max_ejected_percent": 50},
            "retry": {"attempts": 1},
            "routing": {"rules": [{"dye": {"tag": "colour", "metadata": "x-colour"}}]},
        }})
        .to_string(),
    );
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let nodes: Vec<_> = (0..24)
        .map(|number| {
            let seen = seen.clone();
            let echo = Echo::with(move |_, _| {
                *seen.lock().entry(number).or_insert(0) += 1;
                std::future::ready(Err(Status::unavailable("ill")))
            });
            let colour = ["blue", "green"][number % 2];
            fleet.provide_as(
                |instance| drop(instance.tags.insert("colour".into(), colour.into())),
                echo,
            )
        })
        .collect();
    let peer = consumer(&fleet, "tester", "");
    eventually("the policy is in force", || {
        peer.channel.view().instances.len() == 3
    })
    .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..200 {
        for colour in ["blue", "green"] {
            let request = Request::from_parts(note(""), with(&[("x-colour", colour)]));
            peer.channel.call::<Note>(GET, request).await.unwrap_err();
        }
    }
    // Connected ahead, all of them, so that each takes its calls from the first one on.
    assert_eq!(seen.lock().len(), 6);
    // Half of the six that calls can come to, not of the three that a call without a colour would have.
    assert_eq!(counted(&peer.registry, "rsf_node_breaker_opened_total", ECHO), 3);
    drop(nodes);
}

#[tokio::test(start_paused = true)]
async fn tonic_clients_are_routed_by_what_stands_in_their_headers() {
    const COUNTER: &str = "test.v1.Counter";
    let fleet = Fleet::in_test();
    // The one in the west knows no such service: it answers, but with an error of its own.
    let east = fleet.start(
        Provider::builder().tonic_service(counter::Counter),
        place("e", "east", &[]),
    );
    let west = fleet.start(
        Provider::builder().service("", Echo::plain()),
        place("w", "west", &[]),
    );
    fleet
        .control
        .set_instances(COUNTER, vec![east.instance.clone(), west.instance.clone()]);
    let ranges = json!([{"to": 100, "zone": "east"}, {"from": 100, "zone": "west"}]);
    let routing = json!({"rules": [{"shard": {"key": "metadata:member", "ranges": ranges}}]});
    let policy = |routing: &Value| json!({"call": {"routing": routing}}).to_string();
    let scope = format!("service/{COUNTER}");
    fleet.policy(&scope, 1, &policy(&routing));
    let peer = fleet.consumer();
    let mut client = counter::Client::new(peer.consumer.tonic_channel(COUNTER));
    let mut ask = async |member: Option<&str>| {
        let mut request = tonic::Request::new(number(7));
        if let Some(member) = member {
            request.metadata_mut().insert("member", member.parse().unwrap());
        }
        client
            .unary("/test.v1.Counter/Next", request)
            .await
            .map_or_else(|status| status.code(), |_| tonic::Code::Ok)
    };
    assert_eq!(ask(Some("99")).await, tonic::Code::Ok);
    assert_eq!(ask(Some("100")).await, tonic::Code::Unimplemented);
    assert_eq!(ask(None).await, tonic::Code::Unavailable);
    // A zone is what the list says now, and what the consumer meant is checked by the provider too.
    let moved = Instance {
        zone: "east".into(),
        ..west.instance.clone()
    };
    fleet.control.set_instances(COUNTER, vec![moved]);
    eventually("the list is known", || {
        peer.consumer.views()[0].instances.len() == 1
    })
    .await;
    assert_eq!(ask(Some("99")).await, tonic::Code::Unimplemented);
    let lost = Instance {
        zone: "west".into(),
        ..east.instance.clone()
    };
    fleet.control.set_instances(COUNTER, vec![lost]);
    eventually("the list is known", || {
        peer.consumer.views()[0].instances[0].instance == "e"
    })
    .await;
    assert_eq!(ask(Some("100")).await, tonic::Code::FailedPrecondition);
}
