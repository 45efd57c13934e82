//! Rules that are refused, and explanations of what removed whom.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_explanation_names_every_instance_and_rule() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "1", "east", &[("disk", "a")]),
        serve(&fleet, "2", "west", &[("disk", "a")]),
        serve(&fleet, "3", "west", &[]),
    ];
    let _drains = fleet.provide_as(|instance| instance.draining = true, Echo::plain());
    let peer = consumer(&fleet, "tester", "west");
    peer.connected(3).await;
    let all = explained(&peer, &number(1));
    assert_eq!((all.left.len(), all.left_out.len(), all.rules.len()), (3, 1, 0));
    rules(
        &fleet,
        &peer,
        1,
        json!([{"tags": {"require": {"disk": "a"}}}, {"same_zone": {}}]),
    )
    .await;
    let explanation = serde_json::to_value(explained(&peer, &number(1))).unwrap();
    assert_eq!(
        explanation,
        json!({
            "left_out": [{"instance": "echo/4", "reason": "drains"}],
            "left": ["2"],
            "rules": [
                {"rule": 1, "kind": "tags", "kept": "tags disk=a", "because": "", "of": 3,
                 "removed": [{"instance": "3", "reason": "not tagged disk"}]},
                {"rule": 2, "kind": "same_zone", "kept": "zone west", "because": "100 % of it are well", "of": 2,
                 "removed": [{"instance": "1", "reason": "in zone east"}]},
            ],
        })
    );
    rules(&fleet, &peer, 2, by_number(json!({}))).await;
    let explanation = explained(&peer, &number(300));
    assert!(explanation.left.is_empty());
    assert_eq!(explanation.rules[0].because, "no range holds the key `300`");
}

#[test]
fn bad_rules_are_refused_with_all_their_errors() {
    let scope = format!("service/{ECHO}").parse().unwrap();
    let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
    let rules = json!([
        {"same_zone": {"spill_below_percent": 101}},
        {"primary_zone": {}},
        {"shard": {"key": "a..b", "ranges": [
            {"from": 0, "to": 10, "zone": "east"}, {"from": 5, "zone": "west"}, {"from": 3, "to": 3}]}},
        {"shard": {"ranges": [{"from": "a", "zone": "east"}, {"to": 9, "zone": "west"}], "no_key": "maybe"}},
        {"shard": {"ranges": [{"from": true, "zone": "east"}]}},
        {"tags": {}},
        {"dye": {"tag": "", "metadata": "rsf-dye"}},
        {"percent": {"percent": 120, "tags": {}}},
        {"expression": {"text": "while(true)"}},
        {"expression": {"text": deep}},
        {"expression": {"text": format!("{} ? \"a\" : \"b\"", vec!["true"; 300].join(" && "))}},
        {"expression": {"text": "x".repeat(5000)}},
        {"tags": {"require": {"a": "b"}}, "same_zone": {}},
        {},
        {"zone": "east"},
    ]);
    let document = json!({"call": {"routing": {"key": "metadata:", "rules": rules}},
        "consumers": {"bank": {"routing": {"rules": [{"expression": {"text": "1"}}]}}},
        "methods": {"Get": {"routing": {"rules": []}}}});
    let errors = PolicyDocument::parse(&scope, &document.to_string()).unwrap_err();
    let said: Vec<_> = errors.iter().map(ToString::to_string).collect();
    for (path, problem) in [
        ("call.routing.key", "no metadata key"),
        ("call.routing.rules[0].same_zone.spill_below_percent", "0 to 100"),
        ("call.routing.rules[1].primary_zone.zone", "required"),
        ("call.routing.rules[2].shard.key", "is no key"),
        ("call.routing.rules[2].shard.ranges", "[2] names neither"),
        ("call.routing.rules[3].shard.no_key", "refuse, any"),
        ("call.routing.rules[4]", "whole numbers or texts"),
        ("call.routing.rules[5].tags.require", "required"),
        ("call.routing.rules[6].dye.tag", "is empty"),
        ("call.routing.rules[6].dye.metadata", "no metadata key"),
        ("call.routing.rules[7].percent.percent", "0 to 100"),
        ("call.routing.rules[7].percent.tags", "required"),
        (
            "call.routing.rules[8].expression.text",
            "unknown function `while`",
        ),
        ("call.routing.rules[9].expression.text", "16 levels deep"),
        ("call.routing.rules[10].expression.text", "200 nodes"),
        ("call.routing.rules[11].expression.text", "4096"),
        ("call.routing.rules[12]", "exactly one of"),
        ("call.routing.rules[13]", "exactly one of"),
        ("call.routing.rules[14].zone", "unknown field"),
        (
            "consumers.bank.routing.rules[0].expression.text",
            "yields a number",
        ),
        ("methods.Get.routing", "put it under `call`"),
    ] {
        let found = said
            .iter()
            .any(|error| error.starts_with(&format!("{path}: ")) && error.contains(problem));
        assert!(found, "{path}: {problem} is missing in {said:#?}");
    }
}

#[test]
fn ranges_that_overlap_and_rules_that_multiply_are_refused() {
    let scope = format!("service/{ECHO}").parse().unwrap();
    let refused = |rules: Value| {
        let document = json!({"call": {"routing": {"rules": rules}}});
        let errors = PolicyDocument::parse(&scope, &document.to_string()).unwrap_err();
        errors
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let shard = |ranges: Value| json!([{"shard": {"ranges": ranges}}]);
    for (ranges, problem) in [
        (
            json!([{"from": 0, "to": 10, "zone": "a"}, {"from": 9, "zone": "b"}]),
            "[0] and [1] overlap",
        ),
        (
            json!([{"from": "x", "zone": "a"}, {"to": "y", "zone": "b"}]),
            "[1] and [0] overlap",
        ),
        (json!([{"from": 5, "to": 5, "zone": "a"}]), "[0] is empty"),
        (
            json!([{"from": 5, "zone": "a"}, {"to": "a", "zone": "b"}]),
            "numbers in some ranges",
        ),
        (json!([{"zone": "a", "tag": {"b": "c"}}]), "names neither one"),
        (json!([{"tag": {"b": "c", "d": "e"}}]), "names neither one"),
        (json!([{"tag": {"b=c": "e"}}]), "has a `=`"),
        (json!([]), "is required"),
    ] {
        let said = refused(shard(ranges));
        assert!(said.contains(problem), "{said}");
    }
    let twice = json!([{"shard": {"ranges": [{"zone": "a"}]}}, {"shard": {"ranges": [{"zone": "b"}]}}]);
    assert!(refused(twice).contains("more than one `shard`"));
    let ranges: Vec<_> = (0..100)
        .map(|n| json!({"from": n, "to": n + 1, "zone": format!("z{n}")}))
        .collect();
    let many = json!([{"shard": {"ranges": ranges}}, {"same_zone": {}}, {"percent": {"percent": 1, "tags": {"a": "b"}}}]);
    assert!(refused(many).contains("400 sets"));
}

#[tokio::test(start_paused = true)]
async fn a_refused_expression_leaves_the_last_good_rules_in_force() {
    let fleet = Fleet::in_test();
    let _nodes = [serve(&fleet, "e", "east", &[]), serve(&fleet, "w", "west", &[])];
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;
    rules(&fleet, &peer, 1, json!([{"expression": {"text": "\"west\""}}])).await;
    let scope = format!("service/{ECHO}");
    let endless = json!({"call": {"routing": {"rules": [{"expression": {"text": "while(true)"}}]}}});
    fleet.service_policy(2, &endless.to_string());
    eventually("the refusal is said", || {
        fleet
            .acknowledged(&scope)
            .is_some_and(|(revision, refusal)| revision == 2 && refusal.is_some())
    })
    .await;
    let (_, refusal) = fleet.acknowledged(&scope).unwrap();
    assert!(refusal.unwrap().contains("unknown function `while`"));
    assert_eq!(counted(&peer.registry, "rsf_policies_refused_total", ""), 1);
    assert_eq!(who(&peer, 50).await, ["w"]);
}

#[tokio::test(start_paused = true)]
async fn sets_beyond_the_bound_are_refused_call_by_call() {
    let fleet = Fleet::in_test();
    fleet.list(|instances| {
        for place in 0..400 {
            let mut instance = Instance::at("echo", &format!("far-{place}:1"));
            instance.zone = format!("z{place:03}").into();
            instances.push(instance);
        }
    });
    let peer = consumer(&fleet, "tester", "");
    eventually("all are listed", || peer.channel.view().instances.len() == 400).await;
    rules(
        &fleet,
        &peer,
        1,
        json!([{"expression": {"text": "request.text"}}]),
    )
    .await;
    let within = explained(&peer, &note("z001"));
    assert_eq!(within.left.len(), 1);
    let beyond = answer(&peer, note("z399")).await.unwrap_err();
    assert_eq!(beyond.reason(), Reason::NoInstance);
    assert!(beyond.message().contains("more than 256 sets"), "{beyond}");
}
