//! Nodes packed into requests: as few as the limits allow, and what belongs together never torn.

use bytes::Bytes;

/// The most that one `multi` may carry, in bytes: past about 1 MB the server drops the connection and with it all
/// requests that are under way.
pub(super) const MAX_BATCH: usize = 900_000;
/// The most nodes in one `multi`, so that one does not hold up the server's other writers.
pub(super) const MAX_BATCH_NODES: usize = 64;
/// What a node costs in a `multi` beside its path and data, at most, in bytes.
const NODE_OVERHEAD: usize = 128;

/// A node as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) path: String,
    pub(super) data: Bytes,
}

/// Nodes of one request, and the lists that it completes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) nodes: Vec<Node>,
    pub(super) lists: Vec<Written>,
}

/// A list that a request completes.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) service: String,
    pub(super) version: (u64, u64),
    pub(super) names: Vec<String>,
}

pub(super) fn cost(nodes: &[Node]) -> usize {
    let of = |node: &Node| node.path.len() + node.data.len() + NODE_OVERHEAD;
    nodes.iter().map(of).sum()
}

/// Packs groups into as few requests as the limits allow; a group is never torn.
pub(super) fn batches(groups: Vec<Batch>) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut batch = Batch::default();
    let mut size = 0;
    for group in groups {
        let cost = cost(&group.nodes);
        let many = batch.nodes.len() + group.nodes.len() > MAX_BATCH_NODES;
        if !batch.nodes.is_empty() && (size + cost > MAX_BATCH || many) {
            batches.push(std::mem::take(&mut batch));
            size = 0;
        }
        size += cost;
        batch.nodes.extend(group.nodes);
        batch.lists.extend(group.lists);
    }
    if !batch.nodes.is_empty() {
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_stay_under_both_limits_tear_no_group_and_lose_nothing() {
        let node = |n: usize, size| Node {
            path: format!("/{n}"),
            data: vec![0; size].into(),
        };
        for (count, together, size, least) in [
            (0, 1, 10, 0),
            (1, 1, 500_000, 1),
            (5, 1, 400_000, 3),
            (200, 1, 10, 4),
            (100, 1, 20_000, 3),
            (90, 3, 10, 2),
            (12, 3, 200_000, 4),
        ] {
            let nodes: Vec<Node> = (0..count).map(|n| node(n, size)).collect();
            let group = |nodes: &[Node]| Batch {
                nodes: nodes.to_vec(),
                lists: Vec::new(),
            };
            let batches: Vec<Vec<Node>> = batches(nodes.chunks(together).map(group).collect())
                .into_iter()
                .map(|batch| batch.nodes)
                .collect();
            assert!(
                batches.len() >= least,
                "{count} × {size}: {} batches",
                batches.len()
            );
            let paths: Vec<String> = batches.iter().flatten().map(|node| node.path.clone()).collect();
            assert_eq!(paths, (0..count).map(|n| format!("/{n}")).collect::<Vec<_>>());
            for batch in &batches {
                assert!(cost(batch) <= MAX_BATCH);
                assert!(!batch.is_empty() && batch.len() <= MAX_BATCH_NODES && batch.len() % together == 0);
            }
        }
    }
}
