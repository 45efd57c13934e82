//! The shop as applications of a fleet: an embedded registry, a pump, two providers, and customers over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test's helpers may panic"
)]

use std::time::Duration;

use rsf::{Application, Settings};
use rsf_pump::{Pump, PumpSettings};
use rsf_registry::embedded::EmbeddedStore;
use rsf_registry::{Backend, ControlBackend};
use shop::Latency;
use shop::load::{Customers, Mix};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn customers_are_served_by_all_instances() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(&folder.path().join("registry"), &["default"])
        .await
        .unwrap();
    let namespace = store.namespace("default").unwrap();
    let control = ControlBackend::from(namespace.clone());
    let backend = Backend::from(namespace);

    let stop = CancellationToken::new();
    let settings = PumpSettings {
        pump: "pump".to_owned(),
        ..PumpSettings::default()
    };
    let metrics = prometheus::Registry::new();
    let pump = Pump::new(
        control.lease_sources,
        control.directory,
        settings.validate().unwrap(),
        &metrics,
    )
    .unwrap();
    tokio::spawn(pump.run(stop.clone()));

    let settings = |state: &str| Settings {
        state: Some(folder.path().join(state)),
        drain_ms: Some(5000),
        ..Settings::default()
    };
    let mut providers = Vec::new();
    for state in ["one", "two"] {
        let shop = shop::provide(Application::builder("shop"), Latency::default());
        providers.push(
            shop.registry(backend.clone())
                .settings(settings(state))
                .start()
                .await
                .unwrap(),
        );
    }
    let customers = Application::builder("customers")
        .registry(backend)
        .settings(settings("customers"));
    let customers = customers.start().await.unwrap();
    for application in providers.iter().chain([&customers]) {
        assert!(
            application.registered(Duration::from_secs(10)).await,
            "{} registers",
            application.instance()
        );
    }

    let load = Customers::new(customers.consumer(), Mix::Everything);
    listed(&customers, 2).await;
    let total = load
        .run(200, tokio::time::sleep(Duration::from_secs(1)), |_| {})
        .await;
    assert!(total.succeeded > 0 && total.failed == 0, "{total}");
    for provider in &providers {
        let served = provider.metrics().gather();
        let handled = served
            .iter()
            .filter(|family| family.name() == "rpc_server_call_duration_seconds");
        let methods: Vec<_> = handled
            .flat_map(|family| family.get_metric())
            .filter(|metric| metric.get_histogram().get_sample_count() > 0)
            .flat_map(|metric| metric.get_label())
            .filter(|label| label.name() == "rpc_method")
            .map(|label| label.value().to_owned())
            .collect();
        for method in [
            "shop.v1.MemberService/Get",
            "shop.v1.StockService/Reserve",
            "shop.v1.OrderService/Place",
        ] {
            assert!(
                methods.iter().any(|name| name == method),
                "{} handled {methods:?}",
                provider.instance()
            );
        }
    }
    stop.cancel();
}

/// Waits until the application sees so many instances of each service that it calls.
async fn listed(application: &Application, instances: usize) {
    let complete = || {
        application
            .consumer()
            .views()
            .iter()
            .all(|view| view.instances.len() == instances)
    };
    let waiting = async {
        while !complete() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("the pump lists both instances");
}
