//! The records of `rsf.registry.v1`, generated from `proto/rsf/registry/v1`.

#![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]

tonic::include_proto!("rsf.registry.v1");

impl ListVersion {
    /// The version as a pair that orders: epoch, then sequence.
    pub fn order(&self) -> (u64, u64) {
        (self.epoch, self.sequence)
    }
}
