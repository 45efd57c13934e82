//! A request and a response: a message with its metadata, named as in tonic.

use crate::metadata::Metadata;

/// A message on its way to a handler.
#[derive(Debug, Clone, Default)]
pub struct Request<T> {
    message: T,
    metadata: Metadata,
}

impl<T> Request<T> {
    /// A request without metadata.
    pub fn new(message: T) -> Self {
        Request {
            message,
            metadata: Metadata::new(),
        }
    }

    /// A request from its parts.
    pub fn from_parts(message: T, metadata: Metadata) -> Self {
        Request { message, metadata }
    }

    /// The message.
    pub fn get_ref(&self) -> &T {
        &self.message
    }

    /// The message, consuming the request.
    pub fn into_inner(self) -> T {
        self.message
    }

    /// Both parts.
    pub fn into_parts(self) -> (T, Metadata) {
        (self.message, self.metadata)
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its metadata, to add to.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

impl<T> From<T> for Request<T> {
    fn from(message: T) -> Self {
        Request::new(message)
    }
}

/// A message on its way back.
#[derive(Debug, Clone, Default)]
pub struct Response<T> {
    message: T,
    metadata: Metadata,
}

impl<T> Response<T> {
    /// A response without metadata.
    pub fn new(message: T) -> Self {
        Response {
            message,
            metadata: Metadata::new(),
        }
    }

    /// A response from its parts.
    pub fn from_parts(message: T, metadata: Metadata) -> Self {
        Response { message, metadata }
    }

    /// The message.
    pub fn get_ref(&self) -> &T {
        &self.message
    }

    /// The message, consuming the response.
    pub fn into_inner(self) -> T {
        self.message
    }

    /// Both parts.
    pub fn into_parts(self) -> (T, Metadata) {
        (self.message, self.metadata)
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its metadata, to add to.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }
}

impl<T> From<T> for Response<T> {
    fn from(message: T) -> Self {
        Response::new(message)
    }
}
