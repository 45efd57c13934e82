//! One provider and one bare connection to it, without the client stack.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program compiles the harness for itself and uses a part of it"
)]

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use rsf_core::metadata::Metadata;
use rsf_core::outcome::Reason;
use rsf_core::status::Status;
use rsf_core::wire::{
    Connection, Exchange, Frame, OwnHeaders, RequestId, Target, TraceParent, UnaryReply, UnaryRequest,
    WireError,
};

use crate::support::{Echo, Fleet, Kind, Node, Note, SOON, note};

/// A provider and one connection to it.
pub struct Line {
    pub fleet: Fleet,
    pub node: Node,
    pub connection: Arc<dyn Connection>,
}

impl Line {
    pub async fn to(kind: Kind, echo: Arc<Echo>) -> Line {
        let fleet = Fleet::new(kind);
        let node = fleet.provide(echo);
        let connection = connect(&fleet, &node).await;
        Line {
            fleet,
            node,
            connection,
        }
    }

    pub fn send(&self, request: Sent) -> Exchange {
        request.over(&self.connection)
    }

    pub async fn ask(&self, message: &Note) -> Result<UnaryReply, WireError> {
        soon(self.send(request("Get", message))).await
    }

    /// Proves that the connection still works.
    pub async fn lives(&self) {
        let reply = self.ask(&note("still there")).await.unwrap();
        assert_eq!(read(&reply).text, "still there");
    }
}

pub async fn connect(fleet: &Fleet, node: &Node) -> Arc<dyn Connection> {
    let target = Target {
        address: node.address().into(),
        keepalive: None,
    };
    soon(fleet.wire().connect(&target)).await.unwrap()
}

pub async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("not in time")
}

/// What a request is made of.
#[derive(Clone)]
pub struct Sent {
    pub path: http::uri::PathAndQuery,
    pub frame: Frame,
    pub timeout: Option<Duration>,
    pub previous_attempts: u32,
    pub request_id: RequestId,
    pub trace: Option<TraceParent>,
    pub caller: Option<http::HeaderValue>,
    pub target: Option<http::HeaderValue>,
    pub implementation: Option<http::HeaderValue>,
    pub own: OwnHeaders,
    pub metadata: Metadata,
}

impl Sent {
    pub fn over(&self, connection: &Arc<dyn Connection>) -> Exchange {
        let request = UnaryRequest {
            path: &self.path,
            frame: &self.frame,
            timeout: self.timeout,
            previous_attempts: self.previous_attempts,
            repeated: false,
            request_id: &self.request_id,
            trace: self.trace,
            caller: self.caller.as_ref(),
            target: self.target.as_ref(),
            implementation: self.implementation.as_ref(),
            own: &self.own,
            metadata: &self.metadata,
        };
        Exchange::start(connection.clone(), &request)
    }
}

pub fn request(method: &str, message: &Note) -> Sent {
    Sent {
        path: format!("/test.v1.Echo/{method}").parse().unwrap(),
        frame: Frame::encode(message).unwrap(),
        timeout: None,
        previous_attempts: 0,
        request_id: RequestId::Number(7),
        trace: None,
        caller: None,
        target: None,
        implementation: None,
        own: Vec::new(),
        metadata: Metadata::new(),
    }
}

pub fn read(reply: &UnaryReply) -> Note {
    let bytes = reply.result.as_ref().expect("a message").clone();
    Note::decode(bytes).unwrap()
}

pub fn refused(reply: Result<UnaryReply, WireError>) -> Status {
    reply.unwrap().result.expect_err("a status")
}

pub fn reason(status: &Status) -> Option<Reason> {
    status.metadata().get("rsf-reason").and_then(Reason::from_name)
}
