//! ZooKeeper's nodes of a namespace past everything that guards them, as a stray hand writes them.

use rsf_testkit::Ensemble;
use zookeeper_client::Client;

/// The nodes with data under a namespace's directory.
pub(crate) struct RawDirectory {
    client: Client,
    root: String,
}

impl RawDirectory {
    pub(crate) async fn connect(zookeeper: &Ensemble, namespace: &str) -> RawDirectory {
        let url = zookeeper.url();
        let servers = url.strip_prefix("zk://").expect("a ZooKeeper URL");
        let client = Client::connect(servers).await.expect("ZooKeeper answers");
        RawDirectory {
            client,
            root: format!("/rsf/{namespace}/directory"),
        }
    }

    /// Every node with its data.
    pub(crate) async fn read_all(&self) -> Vec<(String, Vec<u8>)> {
        self.read_below(&self.root).await
    }

    /// The nodes of one service with their data.
    pub(crate) async fn read(&self, service: &str) -> Vec<(String, Vec<u8>)> {
        self.read_below(&format!("{}/{service}", self.root)).await
    }

    /// Writes these nodes where they are still there.
    pub(crate) async fn write_all(&self, nodes: &[(String, Vec<u8>)]) {
        for (path, data) in nodes {
            match self.client.set_data(path, data, None).await {
                Ok(_) | Err(zookeeper_client::Error::NoNode) => {}
                Err(error) => panic!("{path} cannot be written: {error}"),
            }
        }
    }

    async fn read_below(&self, root: &str) -> Vec<(String, Vec<u8>)> {
        let (mut found, mut left) = (Vec::new(), vec![root.to_owned()]);
        while let Some(path) = left.pop() {
            let (data, _) = self.client.get_data(&path).await.expect("the node is there");
            if !data.is_empty() {
                found.push((path.clone(), data));
            }
            let children = self.client.list_children(&path).await.expect("the node is there");
            left.extend(children.into_iter().map(|child| format!("{path}/{child}")));
        }
        found
    }
}
