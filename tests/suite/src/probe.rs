//! A service whose answers show what reached the handler: messages, client and trait generated, the trait implemented.

mod v1 {
    include!(concat!(env!("OUT_DIR"), "/suite.v1.rs"));
}

use std::collections::HashMap;
use std::time::Duration;

use prost::Message;
use rsf::{Context, Metadata, Request, Response, Status};

pub use v1::{Probe, ProbeClient, ProbeReply, ProbeRequest, ProbeServer};

/// The service's name.
pub const PROBE: &str = "suite.v1.Probe";

/// `google.rpc.Status`, the form in which gRPC carries error details.
#[derive(Clone, PartialEq, Message)]
pub struct RpcStatus {
    /// gRPC's number.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// For programs.
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<prost_types::Any>,
}

/// The handlers.
#[derive(Debug, Default)]
pub struct Prober {}

impl Probe for Prober {
    async fn echo(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        let (asked, metadata) = request.into_parts();
        let context = Context::current();
        let context = context.as_deref();
        let reply = ProbeReply {
            text: asked.text,
            metadata: metadata
                .iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect::<HashMap<_, _>>(),
            remaining_ms: context
                .and_then(Context::remaining)
                .map_or(0, |left| left.as_millis() as u64),
            caller: context.and_then(Context::caller).unwrap_or_default().to_owned(),
            payload: Vec::new(),
        };
        let invalid = |error: rsf_core::metadata::InvalidMetadata| Status::internal(error.to_string());
        let mut back = Metadata::new();
        if let Some(text) = metadata.get("probe-text") {
            back.insert("probe-echo", text).map_err(invalid)?;
        }
        if let Some(bytes) = metadata.get_bin("probe-bin") {
            back.insert_bin("echo-bin", &bytes).map_err(invalid)?;
        }
        Ok(Response::from_parts(reply, back))
    }

    async fn sleep(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        tokio::time::sleep(Duration::from_millis(request.get_ref().sleep_ms.into())).await;
        self.echo(request).await
    }

    async fn fail(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        let asked = request.into_inner();
        let status = Status::invalid_argument(&asked.text);
        let details = RpcStatus {
            code: status.code() as i32,
            message: asked.text.clone(),
            details: vec![prost_types::Any {
                type_url: "type.googleapis.com/suite.v1.ProbeRequest".to_owned(),
                value: asked.encode_to_vec(),
            }],
        };
        let mut metadata = Metadata::new();
        metadata
            .insert("probe-cause", "asked")
            .map_err(|error| Status::internal(error.to_string()))?;
        Err(status
            .with_details(details.encode_to_vec())
            .with_metadata(metadata))
    }

    async fn panic(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        panic!("the probe was asked to panic: {}", request.get_ref().text)
    }

    async fn big(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeReply>, Status> {
        let payload = vec![7; request.get_ref().reply_bytes as usize];
        Ok(Response::new(ProbeReply {
            payload,
            ..ProbeReply::default()
        }))
    }
}
