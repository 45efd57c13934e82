//! Policy: what governs a call, as documents that change while calls run.
//!
//! 1. [`fields`]: every field with its unit, range and default; validation and docs come from this one table.
//! 2. [`document`]: one document of one scope, parsed and checked with all errors at once.
//! 3. [`resolve`]: documents in their order of precedence → the values that hold for one method, and where each came
//!    from.
//!
//! Precedence, later wins: built-in < fleet < provider application < .proto option < service < method < consumer.

pub mod document;
pub mod fields;
pub mod resolve;

pub use document::{Balance, CallPolicy, InstanceRule, PolicyDocument, PolicyError, ProviderPolicy};
pub use resolve::{Layer, MethodPolicy, ProviderLimits, Resolution, method_policy, provider_limits};
