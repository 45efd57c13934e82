//! The console over in-memory stores: its truth, its API, its live figures.

mod twin;

mod truth;

mod api;
mod guards;
mod live;
