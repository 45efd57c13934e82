//! The members' service.

use std::collections::HashMap;

use parking_lot::Mutex;
use rsf::{Request, Response, Status};

use crate::latency::Latency;
use crate::v1::{GetMemberRequest, Level, Member, MemberService, RegisterMemberRequest};

/// Members that every instance knows from the start, with the ids 1 to this. Every tenth has gold.
pub const FIRST_MEMBERS: u64 = 1000;

/// Members in memory.
#[derive(Debug)]
pub struct Members {
    book: Mutex<Book>,
    latency: Latency,
}

#[derive(Debug, Default)]
struct Book {
    by_id: HashMap<u64, Member>,
    by_email: HashMap<String, u64>,
}

impl Members {
    /// The first members.
    pub fn new(latency: Latency) -> Self {
        let mut book = Book::default();
        for id in 1..=FIRST_MEMBERS {
            let level = if id % 10 == 0 { Level::Gold } else { Level::Silver };
            book.add(format!("Member {id}"), format!("member{id}@shop.example"), level);
        }
        Members {
            book: Mutex::new(book),
            latency,
        }
    }
}

impl Book {
    fn add(&mut self, name: String, email: String, level: Level) -> Member {
        let id = self.by_id.len() as u64 + 1;
        let member = Member {
            id,
            name,
            email: email.clone(),
            level: level.into(),
        };
        self.by_email.insert(email, id);
        self.by_id.insert(id, member.clone());
        member
    }
}

impl MemberService for Members {
    async fn get(&self, request: Request<GetMemberRequest>) -> Result<Response<Member>, Status> {
        self.latency.pass().await;
        let id = request.get_ref().id;
        let member = self.book.lock().by_id.get(&id).cloned();
        let member = member.ok_or_else(|| Status::not_found(format!("nobody has the member id {id}")))?;
        Ok(Response::new(member))
    }

    async fn register(&self, request: Request<RegisterMemberRequest>) -> Result<Response<Member>, Status> {
        self.latency.pass().await;
        let RegisterMemberRequest { name, email } = request.into_inner();
        if !(1..=100).contains(&name.chars().count()) {
            return Err(Status::invalid_argument("a name has 1 to 100 characters"));
        }
        let mut book = self.book.lock();
        if book.by_email.contains_key(&email) {
            return Err(Status::already_exists(format!("`{email}` is a member's already")));
        }
        Ok(Response::new(book.add(name, email, Level::Silver)))
    }
}
