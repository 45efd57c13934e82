//! Redis over TLS, with certificates that are made for the test.

use futures_util::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rsf_registry::cluster::{self, RedisDedup};
use rsf_registry::{Hint, Renewal, StoreError};
use rsf_testkit::{RedisServer, TempDir, free_port};
use tokio::time::timeout;

use crate::{NOBODY, PATIENCE, TTL, lease};

/// A server that speaks TLS at a port of its own, and the files that it and its clients need.
struct Secured {
    server: RedisServer,
    port: String,
    folder: TempDir,
}

impl Secured {
    /// `options` go to the server.
    async fn start(options: &[&str]) -> Self {
        let folder = TempDir::new("redis-tls");
        for (ca, names) in [("ca", &["server", "client"][..]), ("other-ca", &[])] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, ca);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let own = params.self_signed(&key).unwrap();
            std::fs::write(folder.join(format!("{ca}.pem")), own.pem()).unwrap();
            let issuer = Issuer::new(params, key);
            for name in names {
                let key = KeyPair::generate().unwrap();
                let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
                params.distinguished_name.push(DnType::CommonName, *name);
                let cert = params.signed_by(&key, &issuer).unwrap();
                std::fs::write(folder.join(format!("{name}.pem")), cert.pem()).unwrap();
                std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
            }
        }
        let port = free_port().to_string();
        let file = |name: &str| folder.join(name).display().to_string();
        let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
        let tls = [
            "--tls-port",
            &port,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
        ];
        let server = RedisServer::start_with(&[&tls[..], options].concat()).await;
        Secured { server, port, folder }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn url(&self, options: &str) -> String {
        format!("rediss://127.0.0.1:{}{options}", self.port)
    }

    fn as_client(&self) -> String {
        let (ca, cert, key) = (
            self.file("ca.pem"),
            self.file("client.pem"),
            self.file("client.key"),
        );
        self.url(&format!("?ca={ca}&cert={cert}&key={key}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_certificate_does_everything() {
    let redis = Secured::start(&[]).await;
    let cluster = cluster::open(&redis.as_client(), NOBODY, "default").unwrap();
    let mut hints = cluster.sources[0].hints().await.unwrap();
    cluster.sources[0].sweep().await.unwrap();
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
    let hint = timeout(PATIENCE, hints.next()).await.unwrap();
    assert_eq!(
        hint,
        Some(Hint::Changed("member/1".to_owned())),
        "the subscription is made over TLS too"
    );
    assert_eq!(
        cluster.leases.renew("member/1", 7, TTL).await.unwrap(),
        Renewal::Renewed
    );
    assert_eq!(cluster.sources[0].sweep().await.unwrap().leases.len(), 1);
    RedisDedup::open(&redis.as_client(), "default").unwrap();
    // The plain port of the same server has what came over TLS.
    let plain = cluster::open(&redis.server.url(), NOBODY, "default").unwrap();
    assert_eq!(plain.sources[0].sweep().await.unwrap().leases.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_client_certificates_a_ca_is_enough() {
    let redis = Secured::start(&["--tls-auth-clients", "no"]).await;
    let url = redis.url(&format!("?ca={}", redis.file("ca.pem")));
    let cluster = cluster::open(&url, NOBODY, "default").unwrap();
    cluster.leases.put(&lease("member/1", 1), TTL).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_who_is_not_trusted_and_it_says_why() {
    let redis = Secured::start(&[]).await;
    let cases = [
        (
            "a server of another authority",
            format!("?ca={}", redis.file("other-ca.pem")),
            "certificate",
        ),
        (
            "an authority that this machine does not know",
            String::new(),
            "certificate",
        ),
        (
            "no certificate of its own",
            format!("?ca={}", redis.file("ca.pem")),
            "certificaterequired",
        ),
    ];
    for (what, options, reason) in cases {
        let cluster = cluster::open(&redis.url(&options), NOBODY, "default").unwrap();
        let error = cluster
            .leases
            .put(&lease("member/1", 1), TTL)
            .await
            .expect_err(what);
        assert!(
            error.to_string().to_lowercase().contains(reason),
            "{what}: {error}"
        );
    }
    for (options, reason) in [
        (format!("?ca={}", redis.file("nowhere.pem")), "nowhere.pem"),
        (format!("?ca={}", redis.file("server.key")), "PEM"),
    ] {
        let error = cluster::open(&redis.url(&options), NOBODY, "default").unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}
