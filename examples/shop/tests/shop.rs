//! The shop in one process, over the in-process wire, on a paused clock.
#![allow(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::sync::Arc;
use std::time::Duration;

use rsf::{Code, Consumer, Reason};
use rsf_core::PolicyBook;
use rsf_core::client::ConsumerParts;
use rsf_core::control::{Instance, StaticControlPlane};
use rsf_core::metrics::Metrics;
use rsf_core::runtime::IoRuntime;
use rsf_core::server::{Provider, ProviderIdentity};
use rsf_core::wire::in_process::{Bound, InProcessWire};
use shop::Latency;
use shop::load::{Customers, Mix, Summary};
use shop::members::{FIRST_MEMBERS, Members};
use shop::orders::Orders;
use shop::stock::{PIECES, RESERVED_FOR, Warehouse};
use shop::v1::{
    GetMemberRequest, GetOrderRequest, MemberServiceClient, MemberServiceServer, OrderServiceClient,
    OrderServiceServer, PlaceOrderRequest, RegisterMemberRequest, ReserveRequest, StockLevelRequest,
    StockServiceClient, StockServiceServer,
};

struct Shop {
    consumer: Consumer,
    instance: Bound,
}

fn shop(latency: Duration) -> Shop {
    let latency = Latency::of(latency);
    let runtime = IoRuntime::shared(tokio::runtime::Handle::current());
    let control = Arc::new(StaticControlPlane::new());
    let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
    let policies = PolicyBook::new(control.clone(), runtime.clone(), metrics.policies_refused.clone());
    let wire = InProcessWire::new();
    let consumer = Consumer::new(ConsumerParts {
        application: "customers".to_owned(),
        namespace: "test".to_owned(),
        zone: String::new(),
        instance: String::new(),
        runtime,
        wire: Arc::new(wire.clone()),
        control: control.clone(),
        policies: policies.clone(),
        metrics: metrics.clone(),
        token: Default::default(),
        interceptors: Default::default(),
        balancers: rsf_core::client::Balancers::new(),
    });
    let orders = Orders::new(consumer.client(), consumer.client(), latency);
    let identity = ProviderIdentity {
        application: "shop".to_owned(),
        target: None,
        zone: String::new(),
        tags: Default::default(),
    };
    let provider = Provider::builder()
        .service("", Arc::new(MemberServiceServer::new(Members::new(latency))))
        .service("", Arc::new(StockServiceServer::new(Warehouse::new(latency))))
        .service("", Arc::new(OrderServiceServer::new(orders)))
        .build(identity, &metrics, &policies)
        .unwrap();
    for service in provider.services() {
        control.set_instances(&service.name, vec![Instance::at("shop", "one")]);
    }
    Shop {
        consumer,
        instance: wire.bind("one", provider),
    }
}

fn order(member_id: u64, sku: &str, quantity: u32) -> PlaceOrderRequest {
    PlaceOrderRequest {
        member_id,
        sku: sku.to_owned(),
        quantity,
    }
}

#[tokio::test(start_paused = true)]
async fn members_are_known_and_registered() {
    let shop = shop(Duration::ZERO);
    let members: MemberServiceClient = shop.consumer.client();
    let member = members
        .get(GetMemberRequest { id: 7 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(member.email, "member7@shop.example");

    let ask = |name: &str, email: &str| RegisterMemberRequest {
        name: name.to_owned(),
        email: email.to_owned(),
    };
    let new = members
        .register(ask("Ann", "ann@example.com"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        members
            .get(GetMemberRequest { id: new.id })
            .await
            .unwrap()
            .into_inner(),
        new
    );

    let twice = members.register(ask("Ann", "ann@example.com")).await.unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);
    let nameless = members.register(ask("", "b@example.com")).await.unwrap_err();
    assert_eq!(nameless.code(), Code::InvalidArgument);
    let nobody = members
        .get(GetMemberRequest {
            id: FIRST_MEMBERS + 2,
        })
        .await
        .unwrap_err();
    assert_eq!(
        (nobody.code(), nobody.reason()),
        (Code::NotFound, Reason::Handler)
    );
}

#[tokio::test(start_paused = true)]
async fn an_order_asks_the_other_services() {
    let shop = shop(Duration::ZERO);
    let orders: OrderServiceClient = shop.consumer.client();
    let silver = orders.place(order(7, "mug", 2)).await.unwrap().into_inner();
    let gold = orders.place(order(10, "mug", 2)).await.unwrap().into_inner();
    assert_eq!((silver.total_cents, gold.total_cents), (2400, 2280));
    assert_eq!((silver.reservation_id, gold.reservation_id), (1, 2));
    assert_eq!(
        orders
            .get(GetOrderRequest { id: gold.id })
            .await
            .unwrap()
            .into_inner(),
        gold
    );

    let table = [
        (order(0, "mug", 1), Code::NotFound, "nobody has the member id 0"),
        (
            order(1, "cup", 1),
            Code::NotFound,
            "the shop does not sell `cup`; try `tea`, `mug` or `pot`",
        ),
        (
            order(1, "mug", 0),
            Code::InvalidArgument,
            "reserve at least one piece",
        ),
        (
            order(1, "tea", PIECES + 1),
            Code::FailedPrecondition,
            "only 100000 of `tea` are left, 100001 are wanted",
        ),
    ];
    for (request, code, message) in table {
        let error = orders.place(request).await.unwrap_err();
        assert_eq!((error.code(), error.message()), (code, message));
    }
    assert_eq!(
        orders.get(GetOrderRequest { id: 3 }).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_set_aside_goes_back() {
    let shop = shop(Duration::ZERO);
    let stock: StockServiceClient = shop.consumer.client();
    let level = || async {
        let tea = StockLevelRequest {
            sku: "tea".to_owned(),
        };
        stock.level(tea).await.unwrap().into_inner().left
    };
    let reserve = ReserveRequest {
        sku: "tea".to_owned(),
        quantity: PIECES,
    };
    assert_eq!(stock.reserve(reserve).await.unwrap().into_inner().left, 0);
    tokio::time::advance(RESERVED_FOR - Duration::from_millis(100)).await;
    assert_eq!(level().await, 0);
    tokio::time::advance(Duration::from_millis(100)).await;
    assert_eq!(level().await, PIECES);
}

#[tokio::test(start_paused = true)]
async fn customers_call_at_their_rate_and_count() {
    let shop = shop(Duration::from_millis(20));
    let customers = Customers::new(&shop.consumer, Mix::Everything);
    let mut seconds: Vec<Summary> = Vec::new();
    let stop = tokio::time::sleep(Duration::from_millis(3502));
    let total = customers
        .run(200, stop, |second| seconds.push(second.clone()))
        .await;
    assert_eq!(seconds.len(), 3);
    assert_eq!((total.succeeded, total.failed), (700, 0), "{total}");
    // An order waits for two services: three handlers' time.
    let (p50, p99) = (total.percentile_us(50), total.percentile_us(99));
    assert!(
        (20_000..25_000).contains(&p50) && (60_000..65_000).contains(&p99),
        "{total}"
    );
    assert!(
        total
            .to_string()
            .contains(" ok=700 failed=0 idempotent_failed=0 p50_ms=2"),
        "{total}"
    );
}

#[tokio::test(start_paused = true)]
async fn customers_go_on_when_the_shop_is_gone() {
    let shop = shop(Duration::ZERO);
    drop(shop.instance);
    let customers = Customers::new(&shop.consumer, Mix::OnlyReads);
    let total = customers
        .run(100, tokio::time::sleep(Duration::from_millis(1002)), |_| {})
        .await;
    assert_eq!(
        (total.succeeded, total.failed, total.idempotent_failed),
        (0, 100, 100),
        "{total}"
    );
    let error = total.last_error.unwrap();
    assert!(error.starts_with("UNAVAILABLE (connect): "), "{error}");
}

#[test]
fn latencies_are_read() {
    assert_eq!("250".parse(), Ok(Latency::of(Duration::from_millis(250))));
    for text in ["", "-1", "60001", "1s"] {
        let error = text.parse::<Latency>().unwrap_err().to_string();
        assert_eq!(
            error,
            format!("`{text}` is no latency; give milliseconds, 0 to 60000")
        );
    }
}
