//! A service's schema by gRPC server reflection (v1): its file and, one after the other, what that imports.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_types::FileDescriptorProto;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::{MAX_SCHEMA_BYTES, SchemaError};

/// For the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For the whole conversation.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Files of one schema at most.
const MAX_FILES: usize = 1_000;

/// Asks the instance at `address` for the encoded `FileDescriptorSet` of `service`.
pub(super) async fn fetch(address: &str, service: &str) -> Result<Bytes, SchemaError> {
    let from = format!("reflection at {address}");
    let unavailable = |reason: String| SchemaError::Unavailable {
        from: from.clone(),
        reason,
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| unavailable(error.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT);
    let conversation = async {
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| unavailable(chain(&error)))?;
        Conversation::begin(&from, channel, service).await?.files().await
    };
    match tokio::time::timeout(FETCH_TIMEOUT, conversation).await {
        Ok(files) => Ok(file_set(files?.into_values())),
        Err(_) => Err(unavailable(format!(
            "no answer within {} s",
            FETCH_TIMEOUT.as_secs()
        ))),
    }
}

struct Conversation<'a> {
    from: &'a str,
    ask: mpsc::Sender<ServerReflectionRequest>,
    answers: tonic::Streaming<ServerReflectionResponse>,
}

impl<'a> Conversation<'a> {
    async fn begin(from: &'a str, channel: Channel, service: &str) -> Result<Self, SchemaError> {
        let (ask, asked) = mpsc::channel(1);
        let first = request(MessageRequest::FileContainingSymbol(service.to_owned()));
        // Sent before the stream is opened: some servers send no headers before the first question.
        let _ = ask.try_send(first);
        let answers = ServerReflectionClient::new(channel)
            .max_decoding_message_size(MAX_SCHEMA_BYTES)
            .server_reflection_info(tokio_stream::wrappers::ReceiverStream::new(asked))
            .await
            .map_err(|status| refused(from, &status))?
            .into_inner();
        Ok(Conversation { from, ask, answers })
    }

    /// Every file by name, encoded as it came, so that options which this process does not know survive.
    async fn files(mut self) -> Result<BTreeMap<String, Vec<u8>>, SchemaError> {
        let mut files = BTreeMap::new();
        let mut missing = BTreeSet::new();
        let mut bytes = 0;
        loop {
            for encoded in self.answer().await? {
                let file = FileDescriptorProto::decode(encoded.as_slice())
                    .map_err(|error| self.invalid(format!("a file is no FileDescriptorProto: {error}")))?;
                bytes += encoded.len();
                if bytes > MAX_SCHEMA_BYTES || files.len() >= MAX_FILES {
                    return Err(SchemaError::TooLarge {
                        from: self.from.to_owned(),
                    });
                }
                missing.extend(file.dependency.iter().cloned());
                files.insert(file.name().to_owned(), encoded);
            }
            missing.retain(|name| !files.contains_key(name));
            // Google's own files are the same everywhere, and not every server has them.
            while let Some(name) = missing
                .iter()
                .find(|name| name.starts_with("google/protobuf/"))
                .cloned()
            {
                missing.remove(&name);
                match prost_reflect::DescriptorPool::global().get_file_by_name(&name) {
                    Some(known) => files.insert(name, known.encode_to_vec()),
                    None => return Err(self.invalid(format!("it imports `{name}`, which nobody knows"))),
                };
            }
            let Some(next) = missing.first().cloned() else {
                return Ok(files);
            };
            let question = request(MessageRequest::FileByFilename(next.clone()));
            self.ask.send(question).await.map_err(|_| self.ended())?;
            // Asked once: where the answer lacks it, the set is incomplete.
            missing.remove(&next);
            if files.len() + missing.len() > MAX_FILES {
                return Err(SchemaError::TooLarge {
                    from: self.from.to_owned(),
                });
            }
        }
    }

    async fn answer(&mut self) -> Result<Vec<Vec<u8>>, SchemaError> {
        let message = self
            .answers
            .message()
            .await
            .map_err(|status| refused(self.from, &status))?;
        match message.ok_or_else(|| self.ended())?.message_response {
            Some(MessageResponse::FileDescriptorResponse(files)) => Ok(files.file_descriptor_proto),
            Some(MessageResponse::ErrorResponse(error)) => {
                Err(self.invalid(format!("code {}: {}", error.error_code, error.error_message)))
            }
            _ => Err(self.invalid("an answer to another question".to_owned())),
        }
    }

    fn invalid(&self, reason: String) -> SchemaError {
        SchemaError::Invalid {
            from: self.from.to_owned(),
            reason,
        }
    }

    fn ended(&self) -> SchemaError {
        SchemaError::Unavailable {
            from: self.from.to_owned(),
            reason: "the stream ended early".to_owned(),
        }
    }
}

fn request(question: MessageRequest) -> ServerReflectionRequest {
    ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    }
}

fn refused(from: &str, status: &tonic::Status) -> SchemaError {
    let from = from.to_owned();
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => SchemaError::TooLarge { from },
        tonic::Code::Unimplemented => SchemaError::Invalid {
            from,
            reason: "the instance does not serve gRPC server reflection (v1); switch it on there".to_owned(),
        },
        tonic::Code::NotFound => SchemaError::Invalid {
            from,
            reason: status.message().to_owned(),
        },
        _ => SchemaError::Unavailable {
            from,
            reason: status.to_string(),
        },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        out.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    out
}

/// The encoded `FileDescriptorSet` of files that are encoded already.
fn file_set(files: impl Iterator<Item = Vec<u8>>) -> Bytes {
    let mut out = BytesMut::new();
    for file in files {
        encode_key(1, WireType::LengthDelimited, &mut out);
        encode_varint(file.len() as u64, &mut out);
        out.put_slice(&file);
    }
    out.freeze()
}
