//! Instances that fell out of the list without a word and still answer.
//!
//! A lease can end although its instance lives: the instance, or its Redis, was cut off for longer than the TTL. Calls
//! reach it all the same, and a consumer that believed the list would lose capacity that is there. So it is kept for as
//! long as the connection that was made to this incarnation holds (keepalive closes one to a peer that is silent) and
//! its node breaker is closed, for [`KEPT_AT_MOST`] at most. Without a connection it leaves with the next look, a second
//! later at most.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::snapshot::ServiceSnapshot;
use crate::control::{InstanceList, ListOrigin};

/// How long an instance is kept that the registry does not know any more. What lasts longer is no accident.
const KEPT_AT_MOST: Duration = Duration::from_secs(600);

/// The ids of the instances that are kept, and since when.
pub(super) type Kept = HashMap<Arc<str>, Instant>;

/// `list` with those of `previous` that are kept, and who they are.
pub(super) fn keep<'a>(
    list: &'a InstanceList,
    previous: Option<&ServiceSnapshot>,
    now: Instant,
) -> (Cow<'a, InstanceList>, Kept) {
    // An operator's list means what it says.
    let Some(previous) = previous.filter(|_| list.origin != ListOrigin::Static) else {
        return (Cow::Borrowed(list), Kept::new());
    };
    let listed: HashSet<&str> = list.instances.iter().map(|instance| &*instance.id).collect();
    let missing = previous
        .endpoints
        .values()
        .filter(|endpoint| !listed.contains(&*endpoint.instance.id));
    let kept: Vec<(&Arc<Endpoint>, Instant)> = missing
        .filter(|endpoint| may_answer(endpoint, list) && endpoint.still_answers())
        .map(|endpoint| {
            let since = previous.kept.get(&endpoint.instance.id);
            (endpoint, since.copied().unwrap_or(now))
        })
        .filter(|(_, since)| now < *since + KEPT_AT_MOST)
        .collect();
    if kept.is_empty() {
        return (Cow::Borrowed(list), Kept::new());
    }
    let mut list = list.clone();
    let instances = kept.iter().map(|(endpoint, _)| endpoint.instance.clone());
    list.instances.extend(instances);
    let since = kept
        .iter()
        .map(|(endpoint, since)| (endpoint.instance.id.clone(), *since));
    (Cow::Owned(list), since.collect())
}

/// Whether nothing says that this incarnation is gone. In static lists nobody has one.
fn may_answer(endpoint: &Endpoint, list: &InstanceList) -> bool {
    let instance = &endpoint.instance;
    let gone = list
        .gone
        .get(&instance.id)
        .is_some_and(|last| *last >= instance.incarnation);
    instance.incarnation != 0 && !gone
}
