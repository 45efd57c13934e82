//! What `rsf-build` made of `proto/greeting.proto`.

include!(concat!(env!("OUT_DIR"), "/greeting.v1.rs"));
