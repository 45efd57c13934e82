//! The adapter as its callers meet it: over TCP, in front of real RSF providers.

mod support;

mod calls;
mod clients;
mod limits;
mod refusals;
mod schemas;
