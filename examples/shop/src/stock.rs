//! The warehouse.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use rsf::{Request, Response, Status};
use tokio::time::Instant;

use crate::latency::Latency;
use crate::v1::{Reservation, ReserveRequest, StockLevel, StockLevelRequest, StockService};

/// What the shop sells: number and price in cents.
pub const ARTICLES: [(&str, u64); 3] = [("tea", 450), ("mug", 1200), ("pot", 3900)];

/// Pieces of each article to begin with.
pub const PIECES: u32 = 100_000;

/// How long pieces are set aside. After that they go back, so that the demo never sells out.
pub const RESERVED_FOR: Duration = Duration::from_secs(60);

/// Articles in memory.
#[derive(Debug)]
pub struct Warehouse {
    shelves: Mutex<Shelves>,
    latency: Latency,
}

#[derive(Debug, Default)]
struct Shelves {
    articles: HashMap<String, Article>,
    /// Oldest first.
    reserved: VecDeque<Reserved>,
    reservations: u64,
}

#[derive(Debug)]
struct Article {
    left: u32,
    price: u64,
}

#[derive(Debug)]
struct Reserved {
    until: Instant,
    sku: String,
    quantity: u32,
}

impl Warehouse {
    /// Full shelves.
    pub fn new(latency: Latency) -> Self {
        let articles = ARTICLES
            .map(|(sku, price)| (sku.to_owned(), Article { left: PIECES, price }))
            .into();
        Warehouse {
            shelves: Mutex::new(Shelves {
                articles,
                ..Shelves::default()
            }),
            latency,
        }
    }
}

impl Shelves {
    fn article(&mut self, sku: &str) -> Result<&mut Article, Status> {
        self.put_back();
        let unknown = || {
            Status::not_found(format!(
                "the shop does not sell `{sku}`; try `tea`, `mug` or `pot`"
            ))
        };
        self.articles.get_mut(sku).ok_or_else(unknown)
    }

    fn put_back(&mut self) {
        let now = Instant::now();
        while let Some(over) = self.reserved.pop_front_if(|reserved| reserved.until <= now) {
            if let Some(article) = self.articles.get_mut(&over.sku) {
                article.left += over.quantity;
            }
        }
    }
}

impl StockService for Warehouse {
    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<Reservation>, Status> {
        self.latency.pass().await;
        let ReserveRequest { sku, quantity } = request.into_inner();
        if quantity == 0 {
            return Err(Status::invalid_argument("reserve at least one piece"));
        }
        let mut shelves = self.shelves.lock();
        let article = shelves.article(&sku)?;
        let Some(left) = article.left.checked_sub(quantity) else {
            let problem = format!("only {} of `{sku}` are left, {quantity} are wanted", article.left);
            return Err(Status::failed_precondition(problem));
        };
        article.left = left;
        let unit_price_cents = article.price;
        shelves.reserved.push_back(Reserved {
            until: Instant::now() + RESERVED_FOR,
            sku,
            quantity,
        });
        shelves.reservations += 1;
        Ok(Response::new(Reservation {
            id: shelves.reservations,
            unit_price_cents,
            left,
        }))
    }

    async fn level(&self, request: Request<StockLevelRequest>) -> Result<Response<StockLevel>, Status> {
        self.latency.pass().await;
        let mut shelves = self.shelves.lock();
        let article = shelves.article(&request.get_ref().sku)?;
        Ok(Response::new(StockLevel {
            left: article.left,
            unit_price_cents: article.price,
        }))
    }
}
