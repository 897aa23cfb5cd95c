//! Which version, which certificate, resumed or not, before and after a reload.

use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion};

use crate::certificates::{write_authority, write_pair};
use crate::peer::{Peer, config};
use crate::server::Running;

#[test]
fn both_versions_are_spoken_and_the_newer_one_is_preferred() {
    let server = Running::start(|_, _| {});
    for (versions, spoken) in [
        (&[&TLS12][..], ProtocolVersion::TLSv1_2),
        (&[&TLS13], ProtocolVersion::TLSv1_3),
        (&[&TLS12, &TLS13], ProtocolVersion::TLSv1_3),
    ] {
        let config = Arc::new(config(&[&server.shown], versions));
        let mut peer = Peer::connect(server.address, "localhost", &config).unwrap();
        assert_eq!(peer.stream.conn.protocol_version(), Some(spoken));
        assert_eq!(peer.stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        peer.upgrade("/echo");
        peer.send("over TLS");
        assert_eq!(peer.text(), "over TLS");
    }
    server.await_metric("tidewheel_tls_handshakes_total{version=\"1.2\"}", 1);
    server.await_metric("tidewheel_tls_handshakes_total{version=\"1.3\"}", 2);
    server.await_metric("tidewheel_tls_in_progress", 0);
}

#[test]
fn the_key_exchange_is_post_quantum_where_the_client_can() {
    let server = Running::start(|_, _| {});
    let config = Arc::new(config(&[&server.shown], &[&TLS13]));
    let peer = Peer::connect(server.address, "localhost", &config).unwrap();
    let group = peer.stream.conn.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), rustls::NamedGroup::X25519MLKEM768);
}

#[test]
fn an_old_client_and_one_that_wants_another_protocol_are_refused_and_counted() {
    let server = Running::start(|options, _| {
        options.tls.tls_min_version = tidewheel::cli::options::TlsVersion::V13;
    });
    let old = Arc::new(config(&[&server.shown], &[&TLS12]));
    assert!(Peer::connect(server.address, "localhost", &old).is_err());
    let mut other = config(&[&server.shown], &[&TLS13]);
    other.alpn_protocols = vec![b"h2".to_vec()];
    assert!(Peer::connect(server.address, "localhost", &Arc::new(other)).is_err());
    server.await_metric("tidewheel_tls_failed_total{reason=\"incompatible\"}", 2);
    server.await_metric("tidewheel_connections_rejected_total{reason=\"tls\"}", 2);
    server.await_metric("tidewheel_tls_in_progress", 0);
}

#[test]
fn a_client_that_does_not_trust_us_is_counted_as_an_alert() {
    let server = Running::start(|_, _| {});
    let stranger = Arc::new(config(&[], &[&TLS13]));
    assert!(Peer::connect(server.address, "localhost", &stranger).is_err());
    server.await_metric("tidewheel_tls_failed_total{reason=\"alert\"}", 1);
}

#[test]
fn the_certificate_is_the_one_for_the_name_and_otherwise_the_first() {
    let mut others = Vec::new();
    let server = Running::start(|options, folder| {
        others.push(write_pair(folder, "second", &["a.example"]));
        others.push(write_pair(folder, "third", &["b.example", "*.b.example"]));
        for file in ["second", "third"] {
            options
                .tls
                .tls_cert
                .push(folder.path(&format!("{file}.pem")));
            options
                .tls
                .tls_key
                .push(folder.path(&format!("{file}.key")));
        }
    });
    let roots = [&server.shown, &others[0], &others[1]];
    let config = Arc::new(config(&roots, &[&TLS13]));
    for (name, shown) in [
        ("localhost", &server.shown),
        ("a.example", &others[0]),
        ("b.example", &others[1]),
        ("deep.b.example", &others[1]),
        ("127.0.0.1", &server.shown), // an address is no name: none is sent
    ] {
        let peer = Peer::connect(server.address, name, &config).unwrap();
        assert_eq!(&peer.shown(), shown, "{name}");
    }
    // One that nobody has is shown the first, which is not for it.
    assert!(Peer::connect(server.address, "c.example", &config).is_err());
}

#[test]
fn sessions_resume_on_whichever_core_and_across_a_reload() {
    for version in [&TLS12, &TLS13] {
        let server = Running::start(|_, _| {});
        let config = Arc::new(config(&[&server.shown], &[version]));
        let mut peers = Vec::new();
        for i in 0..16 {
            if i == 12 {
                server.certificates.reload().unwrap();
            }
            let mut peer = Peer::connect(server.address, "localhost", &config).unwrap();
            // The ticket comes with what follows the handshake.
            peer.upgrade("/echo");
            let kind = peer.stream.conn.handshake_kind().unwrap();
            let expected = if i == 0 {
                HandshakeKind::Full
            } else {
                HandshakeKind::Resumed
            };
            assert_eq!(kind, expected, "{version:?}, connection {i}");
            peers.push(peer);
        }
        server.await_metric("tidewheel_tls_resumed_total", 15);
        for core in 0..2 {
            let series = format!("tidewheel_core_connections{{core=\"{core}\"}}");
            assert!(server.metric(&series) > 0, "all on one core");
        }
    }
}

#[test]
fn a_reload_shows_another_certificate_and_leaves_connections_alone() {
    let server = Running::start(|_, _| {});
    let before = Arc::new(config(&[&server.shown], &[&TLS13]));
    let mut old = Peer::connect(server.address, "localhost", &before).unwrap();
    old.upgrade("/echo");

    let renewed = write_pair(&server.folder, "first", &["localhost"]);
    server.certificates.reload().unwrap();
    let after = Arc::new(config(&[&renewed], &[&TLS13]));
    // Each core learns of it by mail.
    let shown = || Peer::connect(server.address, "localhost", &after).map(|peer| peer.shown());
    for _ in 0..8 {
        let until = std::time::Instant::now() + crate::server::PATIENCE;
        while shown().ok() != Some(renewed.clone()) {
            assert!(std::time::Instant::now() < until);
        }
    }
    old.send("still here");
    assert_eq!(old.text(), "still here");
}

#[test]
fn files_that_are_of_no_use_leave_the_old_certificate_in_force() {
    let server = Running::start(|_, _| {});
    let trusted = Arc::new(config(&[&server.shown], &[&TLS13]));
    let (chain, key) = (
        server.folder.path("first.pem"),
        server.folder.path("first.key"),
    );
    let good = (std::fs::read(&chain).unwrap(), std::fs::read(&key).unwrap());
    write_pair(&server.folder, "other", &["localhost"]);
    let other_key = std::fs::read(server.folder.path("other.key")).unwrap();
    let cases: [(&[u8], &[u8], &str); 4] = [
        (b"nonsense", &good.1, "holds no certificate"),
        (&good.0, &other_key, "do not go together"),
        (&good.0, b"", "holds no private key"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &good.1,
            "first",
        ),
    ];
    for (certificate, private, complaint) in cases {
        std::fs::write(&chain, certificate).unwrap();
        std::fs::write(&key, private).unwrap();
        let error = format!("{:#}", server.certificates.reload().unwrap_err());
        assert!(
            error.contains(complaint) && error.contains("first."),
            "{error}"
        );
        let peer = Peer::connect(server.address, "localhost", &trusted).unwrap();
        assert_eq!(peer.shown(), server.shown);
    }
    std::fs::remove_file(&key).unwrap();
    std::fs::write(&chain, &good.0).unwrap();
    let error = format!("{:#}", server.certificates.reload().unwrap_err());
    assert!(error.contains("cannot read"), "{error}");
}

#[test]
fn the_admin_listener_demands_a_certificate_of_its_clients() {
    use std::io::{Read, Write};
    let mut client = None;
    let server = Running::start(|options, folder| {
        client = Some(write_authority(folder));
        options.tls.admin_tls = true;
        options.tls.tls_client_ca = Some(folder.path("ca.pem"));
    });
    let ask = |config: rustls::ClientConfig| -> std::io::Result<String> {
        let mut peer = Peer::connect(server.admin, "localhost", &Arc::new(config))?;
        let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        peer.stream.write_all(request)?;
        let mut answer = String::new();
        peer.stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    assert!(ask(config(&[&server.shown], &[&TLS13])).is_err());
    let (certificate, key) = client.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.shown.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let known = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    assert!(ask(known).unwrap().ends_with("ok\n"));
}
