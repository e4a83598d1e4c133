//! Peers that speak something else, or do not speak.

use std::time::Duration;

use mtls_daemon::reason::Reason;
use mtls_daemon::tls::{self, reason_of};
use rustls::AlertDescription;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::version::TLS12;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt};

use crate::pki::{Ca, DB, WEB, id};
use crate::{Talk, Us, attackers, judging, sockets};

#[tokio::test]
async fn an_older_version() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let peer = ca.leaf(DB);

    let (dialling, dialled) = sockets().await;
    let config =
        attackers::client_config_with(default_provider(), &[&TLS12], Some(peer.certified()));
    let (ours, theirs) = tokio::join!(us.accept(dialled), attackers::client(config, dialling));
    assert_eq!(ours.err().unwrap().reason(), Reason::NoCommonVersion);
    assert_eq!(
        attackers::alert(&theirs),
        Some(AlertDescription::ProtocolVersion)
    );

    let (dialling, dialled) = sockets().await;
    let config = attackers::server_config_with(&[&TLS12], peer.certified());
    let (ours, _) = tokio::join!(us.connect(dialling, DB), attackers::server(config, dialled));
    assert_eq!(ours.err().unwrap().reason(), Reason::NoCommonVersion);
}

#[tokio::test]
async fn no_group_in_common() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let provider = CryptoProvider {
        kx_groups: vec![kx_group::MLKEM1024],
        ..default_provider()
    };
    let certificate = Some(ca.leaf(DB).certified());
    let config = attackers::client_config_with(provider, rustls::ALL_VERSIONS, certificate);
    let (dialling, dialled) = sockets().await;
    let (ours, _) = tokio::join!(us.accept(dialled), attackers::client(config, dialling));
    assert_eq!(ours.err().unwrap().reason(), Reason::NoCommonGroup);
}

#[tokio::test]
async fn another_protocol_inside() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    for protocols in [vec![b"http/1.1".to_vec()], vec![]] {
        let mut config = attackers::client_config(Some(ca.leaf(DB).certified()));
        config.alpn_protocols.clone_from(&protocols);
        let (dialling, dialled) = sockets().await;
        let (ours, _) = tokio::join!(us.accept(dialled), attackers::client(config, dialling));
        assert_eq!(ours.err().unwrap().reason(), Reason::NoCommonProtocol);

        let mut config = attackers::server_config(ca.leaf(DB).certified());
        config.alpn_protocols = protocols;
        let (dialling, dialled) = sockets().await;
        let (ours, _) = tokio::join!(us.connect(dialling, DB), attackers::server(config, dialled));
        assert_eq!(ours.err().unwrap().reason(), Reason::NoCommonProtocol);
    }
}

#[tokio::test]
async fn no_certificate_at_all() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let (dialling, dialled) = sockets().await;
    let attack = attackers::client(attackers::client_config(None), dialling);
    let (ours, theirs) = tokio::join!(us.accept(dialled), attack);
    assert_eq!(ours.err().unwrap().reason(), Reason::NoCert);
    assert_eq!(
        attackers::alert(&theirs),
        Some(AlertDescription::CertificateRequired)
    );
}

#[tokio::test]
async fn plain_text() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    for text in [
        "GET / HTTP/1.1\r\nhost: db\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
    ] {
        let (mut dialling, dialled) = sockets().await;
        dialling.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(
            us.accept(dialled).await.err().unwrap().reason(),
            Reason::NotTls,
            "{text}"
        );

        let (dialling, mut dialled) = sockets().await;
        dialled.write_all(text.as_bytes()).await.unwrap();
        assert_eq!(
            us.connect(dialling, DB).await.err().unwrap().reason(),
            Reason::NotTls,
            "{text}"
        );
    }
}

/// Neither silence nor one byte now and then holds a place for longer than
/// the limit.
#[tokio::test]
async fn slow_peers() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let svid = us.leaf.svid(WEB, &us.home);
    let limit = Duration::from_millis(100);
    let server = tls::server_config(&svid, &us.bundles, &judging()).unwrap();
    let client = tls::client_config(&svid, &us.bundles, &id(DB), &judging()).unwrap();

    let (_silent, dialled) = sockets().await;
    let error = tls::accept(dialled, &server, limit).await.err().unwrap();
    assert_eq!(error.reason(), Reason::Timeout);
    assert!(error.took >= limit);

    let (dialling, _silent) = sockets().await;
    let error = tls::connect(dialling, &client, limit).await.err().unwrap();
    assert_eq!(error.reason(), Reason::Timeout);

    let (mut dripping, dialled) = sockets().await;
    let drip = async {
        // The beginning of a ClientHello that goes on for long.
        for byte in [0x16, 3, 1, 0x10, 0, 1, 0, 0x0f, 0xfc]
            .iter()
            .chain([&3; 1000])
        {
            if dripping.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let began = tokio::time::Instant::now();
    tokio::select! {
        result = tls::accept(dialled, &server, limit) => {
            assert_eq!(result.err().unwrap().reason(), Reason::Timeout);
        }
        () = drip => panic!("the server waited for all of it"),
    }
    assert!(began.elapsed() < 5 * limit);
}

#[tokio::test]
async fn peers_that_leave() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let (dialling, dialled) = sockets().await;
    drop(dialling);
    assert_eq!(
        us.accept(dialled).await.err().unwrap().reason(),
        Reason::Eof
    );

    let (dialling, dialled) = sockets().await;
    let leave = async {
        let mut dialled = dialled;
        // The whole ClientHello, or closing would reset the connection.
        let mut hello = vec![0; 64 * 1024];
        let _ = dialled.read(&mut hello).await;
    };
    let (ours, ()) = tokio::join!(us.connect(dialling, DB), leave);
    assert_eq!(ours.err().unwrap().reason(), Reason::Eof);

    let (dialling, dialled) = sockets().await;
    dialling.set_zero_linger().unwrap();
    drop(dialling);
    assert_eq!(us.accept(dialled).await.err().unwrap().reason(), Reason::Io);
}

/// The client is done before the server has judged its certificate: it reads
/// the refusal as an alert, although it had sent data meanwhile.
#[tokio::test]
async fn a_refused_client_reads_why() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, DB);
    let stranger = Ca::root("stranger");
    let web = Us {
        bundles: ca.bundles("example.org"),
        ..Us::new(&stranger, WEB)
    };
    let (dialling, dialled) = sockets().await;
    let (client, server) = tokio::join!(web.connect(dialling, DB), us.accept(dialled));
    let error = server.err().unwrap();
    assert_eq!(error.reason(), Reason::UnknownIssuer);
    assert_eq!(error.presented.unwrap().claimed.to_string(), WEB);

    let client = client.expect("the client's own handshake is done");
    let error = Talk::over(client.socket, client.session)
        .hear()
        .unwrap_err();
    assert_eq!(reason_of(&error), Reason::AlertFromPeer);

    let peer = stranger.leaf(WEB);
    let (dialling, dialled) = sockets().await;
    let attack = attackers::client(attackers::client_config(Some(peer.certified())), dialling);
    let (_, theirs) = tokio::join!(us.accept(dialled), attack);
    assert_eq!(attackers::alert(&theirs), Some(AlertDescription::UnknownCA));
}

#[tokio::test]
async fn a_server_learns_that_its_certificate_was_refused() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, DB);
    let web = Us {
        bundles: Ca::root("another").bundles("example.org"),
        ..Us::new(&ca, WEB)
    };
    let (dialling, dialled) = sockets().await;
    let (client, server) = tokio::join!(web.connect(dialling, DB), us.accept(dialled));
    assert_eq!(client.err().unwrap().reason(), Reason::UnknownIssuer);
    let error = server.err().unwrap();
    assert_eq!(error.reason(), Reason::AlertFromPeer);
    assert!(error.to_string().contains("unknown_ca"), "{error}");
}

/// What a peer claims goes into a log line, not through it.
#[tokio::test]
async fn claims_are_safe_to_print() {
    let ca = Ca::root("root");
    let us = Us::new(&ca, WEB);
    let forged = ca.leaf("spiffe://example.org/x\r\n2026-01-01 INFO all is well \x1b[2J");
    let error = crate::judged_as_client(&us, &forged).await;
    assert!(!error.to_string().chars().any(char::is_control), "{error}");
    let endless = ca.leaf(&format!("spiffe://example.org/{}", "x".repeat(5000)));
    let error = crate::judged_as_client(&us, &endless).await;
    assert!(error.presented.unwrap().claimed.to_string().len() < 600);
}
