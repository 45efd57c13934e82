//! Policy: what governs a call, as documents that change while calls run.
//!
//! 1. [`group`]: how a field is declared, once.
//! 2. [`call`] with its groups in files of their own, [`instances`] and [`provider`]: the fields, with units, ranges and
//!    defaults.
//! 3. [`fields`]: the table of all of them, that validation, docs and [`schema`] are made from.
//! 4. [`document`]: one document of one scope, parsed and checked with all errors at once.
//! 5. [`resolve`]: documents in their order of precedence → the values that hold for one method, and where each came
//!    from.
//!
//! Precedence, later wins: built-in < fleet < provider application < .proto option < service < method < consumer.

pub(crate) mod group;

pub mod adaptive;
pub mod balance;
pub mod call;
pub mod connections;
pub mod dedup;
pub mod degrade;
pub mod instances;
pub mod limit;
pub mod method_breaker;
pub mod node_breaker;
pub mod provider;
pub mod retry;
pub mod routing;

pub mod authorization;
pub mod trace;

pub mod document;
pub mod fields;
pub mod resolve;
pub mod schema;

pub use adaptive::AdaptiveRules;
pub use authorization::{Access, AuthorizationMode, AuthorizationRules, CallerPolicy, IdentityDemand};
pub use balance::{Balance, HashRules, UnknownBalance, WarmUpRules};
pub use call::{CallPolicy, CallRules, Priority, RetryRules};
pub use connections::{ConnectionsPolicy, ConnectionsRules};
pub use dedup::{DedupPolicy, DedupRules, StoreDown};
pub use degrade::{DegradeRules, DegradeWhen};
pub use document::{PolicyDocument, PolicyError};
pub use group::Origins;
pub use instances::InstanceRule;
pub use limit::LimitRules;
pub use method_breaker::MethodBreakerRules;
pub use node_breaker::NodeBreakerRules;
pub use provider::{LimitGroupPolicy, ProviderPolicy, ProviderRules};
pub use resolve::{Layer, MethodPolicy, ProviderView, Resolution, method_policy, provider_rules};
pub use retry::RetryReasons;
pub use routing::{RoutingPolicy, RoutingRule, RoutingRules};
