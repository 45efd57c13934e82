//! The orders' service, whose handlers call the other two.

use std::collections::HashMap;

use parking_lot::Mutex;
use rsf::{Request, Response, Status};

use crate::latency::Latency;
use crate::v1::{
    GetMemberRequest, GetOrderRequest, Level, MemberServiceClient, Order, OrderService, PlaceOrderRequest,
    ReserveRequest, StockServiceClient,
};

/// Percent off for members with gold.
const GOLD_DISCOUNT: u64 = 5;

/// Orders kept; the oldest go, so that the demo can run for ever.
const KEPT: u64 = 100_000;

/// Orders in memory.
#[derive(Debug)]
pub struct Orders {
    members: MemberServiceClient,
    stock: StockServiceClient,
    book: Mutex<Book>,
    latency: Latency,
}

#[derive(Debug, Default)]
struct Book {
    last: u64,
    orders: HashMap<u64, Order>,
}

impl Orders {
    /// No orders yet; `members` and `stock` are asked for each.
    pub fn new(members: MemberServiceClient, stock: StockServiceClient, latency: Latency) -> Self {
        Orders {
            members,
            stock,
            book: Mutex::default(),
            latency,
        }
    }
}

impl Book {
    fn add(&mut self, order: Order) -> Order {
        self.last += 1;
        let order = Order {
            id: self.last,
            ..order
        };
        self.orders.insert(order.id, order.clone());
        self.orders.remove(&self.last.saturating_sub(KEPT));
        order
    }
}

impl OrderService for Orders {
    async fn place(&self, request: Request<PlaceOrderRequest>) -> Result<Response<Order>, Status> {
        self.latency.pass().await;
        let PlaceOrderRequest {
            member_id,
            sku,
            quantity,
        } = request.into_inner();
        // Both calls inherit this one's deadline and trace. What they fail with goes to the caller as it is.
        let member = self
            .members
            .get(GetMemberRequest { id: member_id })
            .await?
            .into_inner();
        let wanted = ReserveRequest {
            sku: sku.clone(),
            quantity,
        };
        let reserved = self.stock.reserve(wanted).await?.into_inner();

        let full_price = reserved.unit_price_cents * u64::from(quantity);
        let discount = if member.level() == Level::Gold {
            full_price * GOLD_DISCOUNT / 100
        } else {
            0
        };
        let order = Order {
            id: 0,
            member_id,
            sku,
            quantity,
            total_cents: full_price - discount,
            reservation_id: reserved.id,
        };
        Ok(Response::new(self.book.lock().add(order)))
    }

    async fn get(&self, request: Request<GetOrderRequest>) -> Result<Response<Order>, Status> {
        self.latency.pass().await;
        let id = request.get_ref().id;
        let order = self.book.lock().orders.get(&id).cloned();
        order
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("there is no order {id} at this instance")))
    }
}
