//! The store in a process's own memory.

use std::sync::Arc;

use rsf_core::server::dedup::{DedupStore, MemoryDedup};

use crate::suite::Fixture;

conformance!(Memory);

struct Memory(Arc<MemoryDedup>);

impl Fixture for Memory {
    async fn new() -> Self {
        Memory(Arc::new(MemoryDedup::new()))
    }

    fn store(&self) -> Arc<dyn DedupStore> {
        self.0.clone()
    }
}
