//! The demo shop: three services that call each other over RSF, to try things on and to copy from.
//!
//! 1. [`v1`]: what `rsf-build` made of `proto/shop/v1`: messages, clients, traits, servers.
//! 2. [`members`], [`stock`], [`orders`]: the traits implemented, in memory. Each provider instance has a memory of its
//!    own, with the same members and articles in it to begin with; a real shop would have a database.
//! 3. [`provide`]: the three of them put into an application. The program `shop-provider` does that.
//! 4. [`load`]: customers at a steady rate, counted second by second. The program `shop-consumer` does that.
//!
//! [`program`] is what the two programs have in common.

pub mod v1 {
    //! Generated from the package `shop.v1`.
    include!(concat!(env!("OUT_DIR"), "/shop.v1.rs"));
}

mod latency;
pub mod members;
pub mod orders;
pub mod stock;

pub mod load;

pub mod program;

pub use latency::{InvalidLatency, Latency};

use members::Members;
use orders::Orders;
use rsf::ApplicationBuilder;
use stock::Warehouse;
use v1::{MemberServiceServer, OrderServiceServer, StockServiceServer};

/// Lets an application provide all three services, each of whose handlers takes `latency` longer than it needs to.
pub fn provide(application: ApplicationBuilder, latency: Latency) -> ApplicationBuilder {
    application
        .service(MemberServiceServer::new(Members::new(latency)))
        .service(StockServiceServer::new(Warehouse::new(latency)))
        .service_with(move |consumer| {
            let orders = Orders::new(consumer.client(), consumer.client(), latency);
            OrderServiceServer::new(orders)
        })
}
