use super::super::packet::tests::frame_v4;
use super::super::pcap::Writer;
use super::*;

const CLIENT: &str = "10.0.1.2:40000";
const SERVER: &str = "10.0.2.3:80";

/// A hand-made segment: from, to, SYN, ACK, sequence, payload.
struct Said(&'static str, &'static str, bool, bool, u32, &'static [u8]);

fn capture(name: &str, said: &[Said]) -> Report {
    let path = std::env::temp_dir().join(format!("{name}-{}.pcap", std::process::id()));
    let mut writer = Writer::create(&path).unwrap();
    for Said(source, destination, syn, ack, sequence, payload) in said {
        let frame = frame_v4(&Segment {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            sequence: *sequence,
            syn: *syn,
            ack: *ack,
            payload,
        });
        writer.frame(&frame, frame.len()).unwrap();
    }
    writer.close().unwrap();
    analyse(&path, 0).unwrap()
}

impl Drop for Report {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn hands_shaken() -> Vec<Said> {
    vec![
        Said(CLIENT, SERVER, true, false, 99, b""),
        Said(SERVER, CLIENT, true, true, 499, b""),
        Said(CLIENT, SERVER, false, true, 100, b""),
    ]
}

#[test]
fn plain_text_both_ways_is_outside() {
    let mut said = hands_shaken();
    said.push(Said(CLIENT, SERVER, false, true, 100, b"GET /secret"));
    said.push(Said(SERVER, CLIENT, false, true, 500, b"200 OK"));
    let report = capture("plain", &said);
    assert_eq!(report.connections.len(), 1);
    assert_eq!((report.inside(), report.outside()), (0, 17));
    let refused = report.ensure_only_tls().unwrap_err().to_string();
    assert!(refused.contains("17 bytes of TCP payload outside"));
    assert!(refused.contains("no TLS record"));
}

#[test]
fn a_silent_wire_is_no_proof() {
    let report = capture("silent", &hands_shaken());
    assert!(report.ensure_nothing_in_clear().is_ok());
    assert!(report.ensure_only_tls().is_err());
}

#[test]
fn lost_frames_are_no_proof() {
    let mut report = capture("lost", &hands_shaken());
    report.lost = 1;
    assert!(report.ensure_nothing_in_clear().is_err());
}

#[test]
fn bytes_without_a_beginning_are_outside() {
    let report = capture(
        "stray",
        &[Said(CLIENT, SERVER, false, true, 100, b"middle")],
    );
    assert_eq!(report.stray_bytes, 6);
    // An answer whose SYN-ACK nobody saw.
    let report = capture(
        "half",
        &[
            Said(CLIENT, SERVER, true, false, 99, b""),
            Said(SERVER, CLIENT, false, true, 500, b"answer"),
        ],
    );
    assert_eq!(report.outside(), 6);
}

#[test]
fn bytes_beyond_a_gap_are_outside() {
    let mut said = hands_shaken();
    said.push(Said(CLIENT, SERVER, false, true, 105, b"later"));
    let report = capture("gap", &said);
    assert_eq!(report.connections[0].unverified, 5);
    assert!(report.ensure_nothing_in_clear().is_err());
}

#[test]
fn bytes_in_a_syn_count() {
    let report = capture("syn", &[Said(CLIENT, SERVER, true, false, 99, b"fast")]);
    assert_eq!(report.outside(), 4);
}

#[test]
fn a_port_used_again_is_another_connection() {
    let mut said = hands_shaken();
    said.push(Said(CLIENT, SERVER, false, true, 100, b"one"));
    said.push(Said(CLIENT, SERVER, true, false, 99, b"")); // again, the same
    said.push(Said(CLIENT, SERVER, true, false, 7000, b""));
    said.push(Said(SERVER, CLIENT, true, true, 9000, b""));
    said.push(Said(CLIENT, SERVER, false, true, 7001, b"three"));
    let report = capture("again", &said);
    let outside: Vec<u64> = report.connections.iter().map(|c| c.outside).collect();
    assert_eq!(outside, [3, 5]);
}

#[test]
fn finds_text_within_and_across_frames() {
    let mut said = hands_shaken();
    said.push(Said(CLIENT, SERVER, false, true, 100, b"a pass"));
    said.push(Said(
        CLIENT,
        SERVER,
        false,
        true,
        106,
        b"word in two, and a key",
    ));
    let report = capture("needle", &said);
    let found = report.contains(&[b"a key", b"password", b"drowssap"]);
    assert_eq!(found.unwrap(), [true, true, false]);
    assert!(report.ensure_absent(&[b"password"]).is_err());
    assert!(report.ensure_absent(&[b"drowssap"]).is_ok());
}
