use mtls_common::addr::Endpoint;
use mtls_common::maps::{FlowKey, Netns, Socket};
use mtls_common::names::{Ends, Name, own, peer};

use crate::around::{COOKIE, endpoint};

const CAPTURED: &str = "127.64.1.2:29184";

fn ends(local: &str, peer: &str) -> Ends {
    Ends {
        local: endpoint(local),
        peer: endpoint(peer),
    }
}

fn captured(dialled: &str) -> Socket {
    Socket::captured(COOKIE, 11, endpoint(dialled), endpoint(CAPTURED), false)
}

fn nobody(_: &FlowKey) -> Option<Endpoint> {
    None
}

fn netns(cookie: u64) -> Option<Netns> {
    (cookie == COOKIE).then_some(Netns {
        standing: Netns::ENROLLED,
        primary_v4: endpoint("10.0.0.1:0").ip,
        primary_v6: endpoint("[fd00::1]:0").ip,
        ..Netns::OTHERS
    })
}

#[test]
fn a_client_sees_what_it_dialled() {
    let socket = captured("10.0.0.2:5432");
    let at = ends("127.0.0.1:41000", CAPTURED);
    let name = peer(Some(&socket), at, || Some(COOKIE), nobody);
    assert_eq!(name, Name::Tell(endpoint("10.0.0.2:5432")));
}

#[test]
fn a_socket_used_again_sees_the_truth() {
    let socket = captured("10.0.0.2:5432");
    let at = ends("127.0.0.1:41000", "127.0.0.1:8080");
    assert_eq!(peer(Some(&socket), at, || Some(COOKIE), nobody), Name::Keep);
    assert_eq!(own(Some(&socket), at, netns), Name::Keep);
}

#[test]
fn a_client_sees_its_pods_address() {
    let at = ends("127.0.0.1:41000", CAPTURED);
    let name = own(Some(&captured("10.0.0.2:5432")), at, netns);
    assert_eq!(name, Name::Tell(endpoint("10.0.0.1:41000")));
    let name = own(Some(&captured("[fd00::2]:5432")), at, netns);
    assert_eq!(name, Name::Tell(endpoint("[fd00::1]:41000")));
}

#[test]
fn an_address_that_the_application_chose_is_kept() {
    let at = ends("10.0.0.1:41000", CAPTURED);
    assert_eq!(own(Some(&captured("10.0.0.2:1")), at, netns), Name::Keep);
    // Nor is there another one to tell.
    let at = ends("127.0.0.1:41000", CAPTURED);
    let none = |_| Some(Netns::OTHERS);
    assert_eq!(own(Some(&captured("10.0.0.2:1")), at, none), Name::Keep);
    assert_eq!(own(None, at, netns), Name::Keep);
}

#[test]
fn a_server_sees_the_client_that_the_daemon_dialled_for() {
    let client = |flow: &FlowKey| {
        let expected = FlowKey::new(
            COOKIE,
            endpoint("127.128.3.4:41022"),
            endpoint("10.0.0.1:80"),
        );
        (*flow == expected).then(|| endpoint("10.0.1.4:41022"))
    };
    let at = ends("10.0.0.1:80", "127.128.3.4:41022");
    let name = peer(None, at, || Some(COOKIE), client);
    assert_eq!(name, Name::Tell(endpoint("10.0.1.4:41022")));
}

#[test]
fn an_unknown_client_is_never_loopback() {
    let name = |local: &str, from: &str| peer(None, ends(local, from), || Some(COOKIE), nobody);
    assert_eq!(
        name("10.0.0.1:80", "127.128.3.4:41022"),
        Name::Unknown(endpoint("0.0.0.0:0"))
    );
    assert_eq!(
        name("[fd00::1]:80", "[::1]:41022"),
        Name::Unknown(endpoint("[100::]:0"))
    );
}

#[test]
fn local_clients_and_other_namespaces_are_left_alone() {
    for (local, from) in [
        ("127.0.0.1:80", "127.0.0.1:41000"),
        ("10.0.0.1:80", "10.0.0.1:41000"),
        ("[::1]:80", "[::1]:41000"),
        ("[fd00::1]:80", "[fd00::1]:41000"),
        ("10.0.0.1:80", "10.0.0.9:41000"),
    ] {
        let name = peer(None, ends(local, from), || Some(COOKIE), nobody);
        assert_eq!(name, Name::Keep, "{from}");
    }
    let at = ends("10.0.0.1:80", "127.128.3.4:41022");
    assert_eq!(peer(None, at, || None, nobody), Name::Keep);
}
