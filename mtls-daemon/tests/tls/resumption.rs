//! Sessions that are resumed, and those that must not be.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtls_daemon::clock::Clock;
use mtls_daemon::identity::{Revocations, TrustBundles};
use mtls_daemon::reason::Reason;
use mtls_daemon::tls::{self, ClientSettings, HandshakeError, Handshaken, ServerSettings};
use tokio::sync::watch;

use crate::folder::Folder;
use crate::openssl::{Openssl, listening, written};
use crate::pki::{self, Ca, DB, HOUR, Leaf, WEB, bundle, id, in_};
use crate::{LIMIT, Talk, Us, attackers, sockets};

type Ends = (
    Result<Handshaken, HandshakeError>,
    Result<Handshaken, HandshakeError>,
);

async fn shake(client: &ClientSettings, server: &ServerSettings) -> Ends {
    let (dialling, dialled) = sockets().await;
    tokio::join!(
        tls::connect(dialling, client, LIMIT),
        tls::accept(dialled, server, LIMIT)
    )
}

/// A handshake that works, after which the client has read its ticket.
/// Whether each end resumed.
async fn again(client: &ClientSettings, server: &ServerSettings) -> (bool, bool) {
    let (ours, theirs) = shake(client, server).await;
    let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
    assert_eq!(ours.peer.id, id(DB));
    assert_eq!(theirs.peer.id, id(WEB));
    Talk::over(theirs.socket, theirs.session).say(b"hello", false);
    let heard = Talk::over(ours.socket, ours.session).hear();
    assert_eq!(heard.unwrap(), "hello");
    (ours.facts.resumed, theirs.facts.resumed)
}

const RESUMED: (bool, bool) = (true, true);
const FULL: (bool, bool) = (false, false);

fn client(us: &Us) -> Arc<ClientSettings> {
    let svid = us.leaf.svid(us.id, &us.home);
    tls::client_config(&svid, &us.bundles, &id(DB), &us.judging).unwrap()
}

fn server(us: &Us) -> Arc<ServerSettings> {
    let svid = us.leaf.svid(us.id, &us.home);
    tls::server_config(&svid, &us.bundles, &us.judging).unwrap()
}

#[tokio::test]
async fn a_session_is_resumed_while_nothing_has_changed() {
    let ca = Ca::root("root");
    let (web, db) = (Us::new(&ca, WEB), Us::new(&ca, DB));
    let (ours, theirs) = (client(&web), server(&db));
    assert_eq!(again(&ours, &theirs).await, FULL);
    assert_eq!(again(&ours, &theirs).await, RESUMED);
    assert_eq!(again(&ours, &theirs).await, RESUMED);
}

#[tokio::test]
async fn a_new_certificate_of_either_end_or_another_workload_means_a_full_handshake() {
    let ca = Ca::root("root");
    let (web, mut db) = (Us::new(&ca, WEB), Us::new(&ca, DB));
    let (ours, theirs) = (client(&web), server(&db));
    assert_eq!(again(&ours, &theirs).await, FULL);
    // The same identity and the same certificate, but other settings: a
    // neighbour, or the workload with other bundles.
    assert_eq!(again(&ours, &server(&db)).await, FULL);
    db.leaf = ca.leaf(DB);
    assert_eq!(again(&ours, &server(&db)).await, FULL);
    assert_eq!(again(&client(&web), &theirs).await, FULL);
}

#[tokio::test]
async fn a_root_that_was_taken_out_ends_the_sessions_under_it() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let web = Us::new(&old, WEB).trusting(both(&old, &new));
    let mut db = Us::new(&new, DB).trusting(both(&old, &new));
    let ours = client(&web);
    assert_eq!(again(&ours, &server(&db)).await, FULL);
    db.bundles = new.bundles("example.org");
    let (_, theirs) = shake(&ours, &server(&db)).await;
    assert_eq!(theirs.err().unwrap().reason(), Reason::UnknownIssuer);
}

fn both(one: &Ca, other: &Ca) -> TrustBundles {
    TrustBundles::from_iter([bundle("example.org", &[one, other])])
}

pub(crate) fn revoking(ca: &Ca, leaves: &[&Leaf]) -> Arc<Revocations> {
    let serials: Vec<String> = leaves.iter().map(|leaf| leaf.serial()).collect();
    let serials: Vec<&str> = serials.iter().map(String::as_str).collect();
    pki::revoking(ca, &serials)
}

#[tokio::test]
async fn a_revoked_peer_does_not_come_back_with_a_ticket() {
    let ca = Ca::root("root");
    let (web, mut db) = (Us::new(&ca, WEB), Us::new(&ca, DB));
    let (publish, newest) = watch::channel(revoking(&ca, &[]));
    db.judging.revocations = newest.into();
    let (ours, theirs) = (client(&web), server(&db));
    assert_eq!(again(&ours, &theirs).await, FULL);
    assert_eq!(again(&ours, &theirs).await, RESUMED);
    // Any change of the lists ends all tickets, so that the refusal is one of
    // the handshake, with its alert.
    publish.send_replace(revoking(&ca, &[]));
    assert_eq!(again(&ours, &theirs).await, FULL);
    publish.send_replace(revoking(&ca, &[&web.leaf]));
    let (_, refused) = shake(&ours, &theirs).await;
    assert_eq!(refused.err().unwrap().reason(), Reason::Revoked);
}

/// The ticket's keys are still there, and its peer's certificate has ended.
#[tokio::test]
async fn a_resumed_peer_is_judged_again() {
    let ca = Ca::root("root");
    let (mut web, mut db) = (Us::new(&ca, WEB), Us::new(&ca, DB));
    web.leaf = ca.leaf_with(WEB, |params| {
        params.not_after = in_(Duration::from_secs(60));
    });
    let (clock, hand) = Clock::settable(SystemTime::now());
    db.judging.clock = clock;
    let (ours, theirs) = (client(&web), server(&db));
    assert_eq!(again(&ours, &theirs).await, FULL);
    assert_eq!(again(&ours, &theirs).await, RESUMED);
    hand.set(SystemTime::now() + HOUR / 2);
    let (_, refused) = shake(&ours, &theirs).await;
    assert_eq!(refused.err().unwrap().reason(), Reason::Expired);
}

/// Somebody else's client, with somebody else's idea of sessions.
#[tokio::test]
async fn a_ticket_of_one_workload_is_nothing_to_its_neighbour() {
    let ca = Ca::root("root");
    let neighbours = [DB, "spiffe://example.org/ns/default/sa/other"];
    let servers = neighbours.map(|id| {
        server(&Us {
            id,
            leaf: ca.leaf(id),
            ..Us::new(&ca, DB)
        })
    });
    // Sessions are remembered by address, and both are at this one.
    let eager = attackers::client_config(Some(ca.leaf(WEB).certified()));
    let mut resumed = Vec::new();
    for server in [&servers[0], &servers[0], &servers[1], &servers[1]] {
        let (dialling, dialled) = sockets().await;
        let peer = tokio::spawn(attackers::client(eager.clone(), dialling));
        let accepted = tls::accept(dialled, server, LIMIT).await.unwrap();
        resumed.push(accepted.facts.resumed);
        Talk::over(accepted.socket, accepted.session).say(b"h", false);
        let _ = peer.await;
    }
    assert_eq!(resumed, [false, true, false, true]);
}

/// Another implementation's idea of sessions, kept in a file.
#[tokio::test]
async fn a_ticket_of_openssl_is_good_here_and_nowhere_else() {
    let (ca, second) = (Ca::root("root"), Ca::root("second"));
    let peer = ca.leaf(WEB);
    let folder = written(&peer, &ca);
    let (publish, newest) = watch::channel(revoking(&ca, &[]));
    let mut db = Us::new(&ca, DB);
    db.judging.revocations = newest.into();
    let here = server(&db);
    let neighbour = server(&Us {
        leaf: ca.leaf("spiffe://example.org/ns/default/sa/other"),
        id: "spiffe://example.org/ns/default/sa/other",
        judging: db.judging.clone(),
        ..Us::new(&ca, DB)
    });
    assert!(!visit(&folder, &here, "-sess_out ticket").await.unwrap());
    assert!(visit(&folder, &here, "-sess_in ticket").await.unwrap());
    assert!(!visit(&folder, &neighbour, "-sess_in ticket").await.unwrap());
    assert!(visit(&folder, &here, "-sess_in ticket").await.unwrap());

    let without_its_root = server(&Us {
        leaf: second.leaf(DB),
        home: second.bundles("example.org"),
        bundles: second.bundles("example.org"),
        judging: db.judging.clone(),
        ..db
    });
    let refused = visit(&folder, &without_its_root, "-sess_in ticket").await;
    assert_eq!(refused.unwrap_err().reason(), Reason::UnknownIssuer);
    publish.send_replace(revoking(&ca, &[&peer]));
    let refused = visit(&folder, &here, "-sess_in ticket").await;
    assert_eq!(refused.unwrap_err().reason(), Reason::Revoked);
}

/// `openssl s_client`, with its certificate; whether it resumed.
async fn visit(
    folder: &Folder,
    server: &ServerSettings,
    arguments: &str,
) -> Result<bool, HandshakeError> {
    let (listener, port) = listening().await;
    let client = format!(
        "s_client -connect 127.0.0.1:{port} -alpn h2 -cert tls.crt -key tls.key {arguments}"
    );
    let client = Openssl::start(folder, &client);
    let (dialled, _) = listener.accept().await.unwrap();
    let done = tls::accept(dialled, server, LIMIT).await?;
    let resumed = done.facts.resumed;
    Talk::over(done.socket, done.session).say(b"hello", true);
    // The ticket is in its file then.
    client.ended().await;
    Ok(resumed)
}
