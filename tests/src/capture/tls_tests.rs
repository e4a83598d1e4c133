use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::*;

/// A real handshake and some bytes each way, record by record.
fn conversation(versions: &[&'static rustls::SupportedProtocolVersion]) -> Vec<(Side, Vec<u8>)> {
    let issued = rcgen::generate_simple_self_signed(["peer".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.signing_key.serialize_der()));
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let name = ServerName::try_from("peer").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    client.writer().write_all(&[b'q'; 40_000]).unwrap();
    server.writer().write_all(&[b'a'; 40_000]).unwrap();
    let mut said = Vec::new();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        feed(&bytes, |part| {
            server.read_tls(part).unwrap();
            server.process_new_packets().unwrap();
            let _ = server.reader().read(&mut [0; 65536]);
        });
        said.push((Side::Client, bytes));
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        feed(&bytes, |part| {
            client.read_tls(part).unwrap();
            client.process_new_packets().unwrap();
            let _ = client.reader().read(&mut [0; 65536]);
        });
        said.push((Side::Server, bytes));
    }
    said
}

fn feed(mut bytes: &[u8], mut take: impl FnMut(&mut &[u8])) {
    while !bytes.is_empty() {
        take(&mut bytes);
    }
}

fn judge(said: &[(Side, Vec<u8>)], cut: usize) -> (Judged, bool, Option<String>) {
    let mut judge = Judge::default();
    for (side, bytes) in said {
        for part in bytes.chunks(cut) {
            judge.take(*side, part);
        }
    }
    judge.finish()
}

fn total(said: &[(Side, Vec<u8>)]) -> u64 {
    said.iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

#[test]
fn a_real_tls_1_3_connection_is_inside_however_it_is_cut() {
    let said = conversation(&[&rustls::version::TLS13]);
    assert!(total(&said) > 80_000);
    for cut in [1, 3, 1448, 1 << 20] {
        let (judged, agreed, complaint) = judge(&said, cut);
        assert_eq!(complaint, None);
        assert!(agreed);
        assert_eq!((judged.inside, judged.outside), (total(&said), 0));
    }
}

#[test]
fn a_connection_cut_anywhere_after_the_hellos_is_inside() {
    let mut said = conversation(&[&rustls::version::TLS13]);
    let last = said.iter().rposition(|(_, b)| b.len() > 30_000).unwrap();
    said.truncate(last + 1);
    for keep in [said[last].1.len() - 1, 17_000, 3] {
        said[last].1.truncate(keep);
        assert_eq!(judge(&said, 1000).0.outside, 0);
    }
}

#[test]
fn tls_1_2_is_outside() {
    let said = conversation(&[&rustls::version::TLS12]);
    let (judged, agreed, complaint) = judge(&said, 1448);
    assert!(!agreed && judged.inside == 0);
    assert_eq!(judged.outside, total(&said));
    assert!(complaint.unwrap().contains("not TLS 1.3"));
}

#[test]
fn plain_text_is_outside() {
    let said = [(Side::Client, b"GET / HTTP/1.1\r\n\r\n".to_vec())];
    let (judged, _, complaint) = judge(&said, 7);
    assert_eq!((judged.inside, judged.outside), (0, 18));
    assert!(complaint.unwrap().contains("no TLS record"));
    let short = [(Side::Client, b"hi".to_vec())];
    assert_eq!(judge(&short, 9).0.outside, 2);
    let server_first = [(Side::Server, b"220 mail ready\r\n".to_vec())];
    assert_eq!(judge(&server_first, 99).0.outside, 16);
}

#[test]
fn plain_text_after_the_handshake_is_outside() {
    let mut said = conversation(&[&rustls::version::TLS13]);
    let inside = total(&said);
    said.push((Side::Server, b"HTTP/1.1 200 OK\r\n".to_vec()));
    let (judged, _, complaint) = judge(&said, 1000);
    assert_eq!((judged.inside, judged.outside), (inside, 17));
    assert!(complaint.unwrap().starts_with("Server sent"));
}

#[test]
fn encrypted_looking_records_need_a_handshake() {
    let mut record = vec![APPLICATION_DATA, 3, 3, 0, 40];
    record.extend([7; 40]);
    let said = [(Side::Client, record)];
    assert_eq!(judge(&said, 99).0.outside, 45);
}

#[test]
fn a_second_plain_handshake_message_is_outside() {
    let mut said = conversation(&[&rustls::version::TLS13]);
    let again = said[0].1.clone();
    let n = again.len() as u64;
    said.push((Side::Client, again));
    assert_eq!(judge(&said, 1000).0.outside, n);
}

#[test]
fn early_data_is_outside() {
    let said = conversation(&[&rustls::version::TLS13]);
    // Grow the hello by an empty early_data extension at its end.
    let (_, mut hello) = said[0].clone();
    let message = u32::from_be_bytes([0, hello[6], hello[7], hello[8]]) as usize;
    hello.truncate(HEADER + 4 + message);
    hello.extend([0, 42, 0, 0]);
    let grow = |hello: &mut Vec<u8>, at: usize| {
        let length = u16::from_be_bytes([hello[at], hello[at + 1]]) + 4;
        hello[at..at + 2].copy_from_slice(&length.to_be_bytes());
    };
    grow(&mut hello, 3);
    grow(&mut hello, 7);
    // Past version, random, session, suites and compression.
    let mut at = HEADER + 4 + 34;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    grow(&mut hello, at);
    let (judged, _, complaint) = judge(&[(Side::Client, hello.clone())], 99);
    assert_eq!(
        complaint.as_deref(),
        Some("Client sent early data, which can be replayed")
    );
    assert_eq!((judged.inside, judged.outside), (0, hello.len() as u64));
}

#[test]
fn an_alert_before_the_keys_may_be_plain() {
    let said = conversation(&[&rustls::version::TLS13]);
    let refused = [
        said[0].clone(),
        (Side::Server, vec![ALERT, 3, 3, 0, 2, 2, 40]),
    ];
    assert_eq!(judge(&refused, 99).0.outside, 0);
    let first = [(Side::Client, vec![ALERT, 3, 3, 0, 2, 2, 40])];
    assert_eq!(judge(&first, 99).0.outside, 7);
    let chatty = [
        said[0].clone(),
        (Side::Server, vec![ALERT, 3, 3, 0, 9, 2, 40]),
    ];
    assert_eq!(judge(&chatty, 99).0.outside, 7);
}
