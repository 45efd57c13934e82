//! The process as `/status` shows it.

use rsf_core::client::ChannelView;
use rsf_registry::agent::OverrideStatus;
use serde::Serialize;

/// Everything about one process, for people and for the console.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Status {
    pub(super) application: String,
    pub(super) instance: String,
    pub(super) incarnation: u64,
    pub(super) namespace: String,
    pub(super) address: String,
    pub(super) zone: String,
    pub(super) version: &'static str,
    /// Whether its lease is in the registry, as far as is known.
    pub(super) registered: bool,
    /// Why the last attempt to register or renew failed.
    pub(super) registry_error: Option<String>,
    pub(super) draining: bool,
    pub(super) provides: Vec<String>,
    /// What an operator overrides of services' instances.
    pub(super) overrides: OverrideStatus,
    pub(super) calls: Vec<ChannelView>,
}
