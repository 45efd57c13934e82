//! Shards, and the keys that calls go by.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_shard_is_served_by_its_owner_alone() {
    let fleet = Fleet::in_test();
    let mut east = serve(&fleet, "e", "east", &[("disk", "a")]);
    let _west = serve(&fleet, "w", "west", &[("disk", "b")]);
    let peer = consumer(&fleet, "tester", "west");
    peer.connected(2).await;
    rules(&fleet, &peer, 1, by_number(json!({}))).await;
    for key in 0..200 {
        let owner = if key < 100 { "e" } else { "w" };
        assert_eq!(answer(&peer, number(key)).await.unwrap(), owner, "{key}");
    }
    // No range.
    let error = answer(&peer, number(200)).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.may_have_run()),
        (Reason::NoInstance, false)
    );
    assert!(
        error.message().contains("no range holds the key `200`"),
        "{error}"
    );
    // Never elsewhere, even where the owner is gone.
    east.kill();
    unreachable(&peer, 1).await;
    assert_eq!(
        answer(&peer, number(1)).await.unwrap_err().reason(),
        Reason::Connect
    );
    fleet.list(|instances| instances.retain(|instance| &*instance.zone == "west"));
    peer.connected(1).await;
    let error = answer(&peer, number(1)).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NoInstance);
    let told = "routing rule 1 (shard → zone east, of key `1`) left none of 1 instances: 1 is in zone west";
    assert!(error.message().contains(told), "{error}");
    assert_eq!(answer(&peer, number(100)).await.unwrap(), "w");
}

#[tokio::test(start_paused = true)]
async fn shards_go_by_any_key() {
    let fleet = Fleet::in_test();
    let _nodes = [
        serve(&fleet, "e", "east", &[("disk", "a")]),
        serve(&fleet, "w", "west", &[("disk", "b")]),
    ];
    let peer = consumer(&fleet, "tester", "");
    peer.connected(2).await;

    // A text, byte by byte; tags own as zones do.
    let texts = json!({"key": "text", "ranges": [
        {"to": "m", "tag": {"disk": "a"}}, {"from": "m", "to": "y", "tag": {"disk": "b"}}]});
    rules(&fleet, &peer, 1, json!([{ "shard": texts }])).await;
    for (text, owner) in [("anna", "e"), ("m", "w"), ("xaver", "w"), ("lzz", "e")] {
        assert_eq!(answer(&peer, note(text)).await.unwrap(), owner, "{text}");
    }
    assert!(
        answer(&peer, note("yves"))
            .await
            .unwrap_err()
            .message()
            .contains("no range")
    );

    // Without a key: refused, or anywhere.
    let error = answer(&peer, note("")).await.unwrap_err();
    assert!(error.message().contains("the call has no key"), "{error}");
    let mut anywhere = texts.clone();
    anywhere["no_key"] = "any".into();
    rules(&fleet, &peer, 2, json!([{ "shard": anywhere }])).await;
    for _ in 0..20 {
        answer(&peer, note("")).await.unwrap();
    }

    // Buckets of the hash: one owner a key, both have some.
    let buckets = by_number(json!({"buckets": 200}));
    rules(&fleet, &peer, 3, buckets).await;
    let first = shares(&peer, 200).await;
    assert!(first["e"] > 60 && first["w"] > 60, "{first:?}");
    assert_eq!(shares(&peer, 200).await, first);

    // Metadata.
    rules(&fleet, &peer, 4, by_number(json!({"key": "metadata:member"}))).await;
    for (member, owner) in [("7", "e"), ("170", "w")] {
        let call = peer.get(number(1)).metadata(with(&[("member", member)]));
        assert_eq!(call.await.unwrap().get_ref().text, owner);
    }
    assert!(
        answer(&peer, number(1))
            .await
            .unwrap_err()
            .message()
            .contains("no metadata `member`")
    );

    // What the caller names; the provider sees it too.
    let mut named = by_number(json!({}))[0]["shard"].clone();
    named.as_object_mut().unwrap().remove("key");
    rules(&fleet, &peer, 5, json!([{ "shard": named }])).await;
    for (key, owner) in [("7", "e"), ("170", "w")] {
        assert_eq!(
            peer.get(number(1)).routing_key(key).await.unwrap().get_ref().text,
            owner
        );
    }
    assert!(
        answer(&peer, number(1))
            .await
            .unwrap_err()
            .message()
            .contains("no `routing_key` option")
    );

    // The service's key, for a rule that names none.
    routing(
        &fleet,
        &peer,
        6,
        json!({"key": "number", "rules": [{ "shard": named }]}),
    )
    .await;
    assert_eq!(answer(&peer, number(7)).await.unwrap(), "e");
    assert_eq!(answer(&peer, number(170)).await.unwrap(), "w");
}
