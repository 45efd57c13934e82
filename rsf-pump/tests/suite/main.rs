//! The pump against twins of its stores, with their faults; the clock is paused and nothing waits for real.

mod twin;
mod world;

mod leadership;
mod liveness;
mod publishing;
mod source_faults;
