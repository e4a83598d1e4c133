//! An authority on disk: what it makes, and every reason why it cannot.

use std::time::{Duration, SystemTime};

use mtls_daemon::config::DiskCa;
use mtls_daemon::identity::certificate::Facts;
use mtls_daemon::identity::disk_ca::{self, Files};
use mtls_daemon::identity::{Loaded, Revocations, Svid, TrustBundles};
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::folder::Folder;
use crate::pki::{Ca, HOUR, WEB, id, in_, only_uris_of, pem, since, trust_domain};

/// An authority's files.
struct Disk {
    folder: Folder,
    config: DiskCa,
}

impl Disk {
    /// `chain`: as it stands in the certificate file.
    fn new(ca: &Ca, chain: &[&Ca], bundle: Option<&[&Ca]>) -> Self {
        let folder = Folder::new();
        let text = |cas: &[&Ca]| {
            cas.iter()
                .map(|ca| pem(&ca.certificate))
                .collect::<String>()
        };
        let bundle = bundle.map(|roots| folder.write("bundle.pem", text(roots)));
        let config = DiskCa {
            certificate: folder.write("ca.crt", text(chain)),
            key: folder.write("ca.key", &ca.key_pem),
            bundle,
            svid_ttl: HOUR,
        };
        Self { folder, config }
    }

    fn load(&self) -> Loaded<Files> {
        disk_ca::read(
            &self.config,
            &trust_domain("example.org"),
            SystemTime::now(),
        )
    }

    fn files(&self) -> Files {
        let loaded = self.load();
        assert_eq!(loaded.complaint, None);
        loaded.good.unwrap()
    }

    fn complaint(&self) -> String {
        let loaded = self.load();
        assert!(loaded.good.is_none_or(|files| files.authority.is_none()));
        loaded.complaint.unwrap()
    }
}

#[track_caller]
fn assert_says(complaint: &str, words: &str) {
    assert!(
        complaint.contains(words),
        "{words:?} is missing in: {complaint}"
    );
}

fn admitted(files: &Files) -> Svid {
    let now = SystemTime::now();
    let issued = files
        .authority
        .as_ref()
        .unwrap()
        .issue(&id(WEB), now)
        .unwrap();
    let bundles = TrustBundles::from_iter([std::sync::Arc::clone(&files.bundle)]);
    Svid::admit(issued, &id(WEB), &bundles, Revocations::none(), now).unwrap()
}

#[test]
fn a_root_makes_certificates_as_the_standard_wants_them() {
    let ca = Ca::root("root");
    let svid = admitted(&Disk::new(&ca, &[&ca], None).files());
    assert_eq!(svid.key().cert.len(), 1, "nobody is sent the root");

    let (_, leaf) = X509Certificate::from_der(&svid.key().cert[0]).unwrap();
    assert_eq!(leaf.subject().to_string(), "");
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical, "it names the subject alone");
    assert!(
        leaf.basic_constraints()
            .unwrap()
            .is_some_and(|c| c.critical && !c.value.ca)
    );
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert_eq!(usage.value.flags, 1, "nothing but signatures");
    let usage = leaf.extended_key_usage().unwrap().unwrap();
    assert!(usage.value.server_auth && usage.value.client_auth && usage.value.other.is_empty());

    let now = SystemTime::now();
    let early = now.duration_since(svid.not_before()).unwrap();
    assert!(early >= Duration::from_secs(60) && early < Duration::from_secs(70));
    let left = svid.not_after().duration_since(now).unwrap();
    assert!(left <= HOUR && left > HOUR - Duration::from_secs(10));
}

#[test]
fn no_two_certificates_share_a_key_or_a_serial_number() {
    let ca = Ca::root("root");
    let files = Disk::new(&ca, &[&ca], None).files();
    let (one, other) = (admitted(&files), admitted(&files));
    assert_ne!(one.serial(), other.serial());
    assert_eq!(one.serial().len(), 32);
    let key = |svid: &Svid| svid.key().key.public_key().map(|key| key.to_vec());
    assert_ne!(key(&one), key(&other));
}

#[test]
fn an_intermediate_presents_its_chain() {
    let root = Ca::root("root");
    let second = root.intermediate("second");
    let third = second.intermediate("third");
    let disk = Disk::new(&third, &[&third, &second], Some(&[&root]));
    let svid = admitted(&disk.files());
    let subjects: Vec<_> = svid.key().cert[1..]
        .iter()
        .map(|der| Facts::of(der).unwrap().subject)
        .collect();
    assert_eq!(subjects, ["CN=third", "CN=second"]);

    // With the root at the end of the file: it is not sent.
    let disk = Disk::new(&third, &[&third, &second, &root], Some(&[&root]));
    assert_eq!(admitted(&disk.files()).key().cert.len(), 3);
}

#[test]
fn nothing_outlives_its_issuer() {
    let root = Ca::root("root");
    let second = root.intermediate_with("second", |params| {
        params.not_after = in_(Duration::from_secs(600));
    });
    let disk = Disk::new(&second, &[&second], Some(&[&root]));
    let svid = admitted(&disk.files());
    assert_eq!(
        svid.not_after(),
        Facts::of(&second.certificate).unwrap().not_after
    );

    let short = Ca::root_with("short", |params| {
        params.not_after = in_(Duration::from_secs(600));
    });
    let second = short.intermediate("second");
    let disk = Disk::new(&second, &[&second], Some(&[&short]));
    let svid = admitted(&disk.files());
    assert_eq!(
        svid.not_after(),
        Facts::of(&short.certificate).unwrap().not_after
    );
}

#[test]
fn an_ended_authority_makes_nothing() {
    let ca = Ca::root("root");
    let files = Disk::new(&ca, &[&ca], None).files();
    let later = SystemTime::now() + 25 * HOUR;
    let error = files
        .authority
        .unwrap()
        .issue(&id(WEB), later)
        .err()
        .unwrap();
    assert_says(
        &error.to_string(),
        "the authority's own certificate ended at 2",
    );
}

#[test]
fn old_and_new_root_side_by_side() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let disk = Disk::new(&new, &[&new], Some(&[&old, &new]));
    let files = disk.files();
    assert_eq!(files.bundle.roots().len(), 2);
    admitted(&files);
}

#[test]
fn a_leaf_is_no_authority() {
    let ca = Ca::root("root");
    let not = Ca::root_with("not", |params| {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    });
    let complaint = Disk::new(&not, &[&not], Some(&[&ca])).complaint();
    assert_says(
        &complaint,
        "certificate 1 (CN=not) is not that of an authority: basicConstraints lacks CA:TRUE",
    );
    assert_says(
        &complaint,
        "certificate 1 (CN=not) may not sign certificates: its keyUsage lacks keyCertSign",
    );
}

#[test]
fn usages_of_an_authority() {
    let root = Ca::root("root");
    let narrow = root.intermediate_with("narrow", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let complaint = Disk::new(&narrow, &[&narrow], Some(&[&root])).complaint();
    assert_says(
        &complaint,
        "its extendedKeyUsage lacks serverAuth or clientAuth",
    );
}

#[test]
fn path_lengths() {
    let root = Ca::root("root");
    let last = root.intermediate_with("last", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    admitted(&Disk::new(&last, &[&last], Some(&[&root])).files());
    let below = last.intermediate("below");
    let complaint = Disk::new(&below, &[&below, &last], Some(&[&root])).complaint();
    assert_says(
        &complaint,
        "certificate 2 (CN=last) allows 0 authorities below it (pathlen), and 1 stand there",
    );

    let only_leaves = Ca::root_with("only leaves", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    admitted(&Disk::new(&only_leaves, &[&only_leaves], None).files());
    let below = only_leaves.intermediate("below");
    let complaint = Disk::new(&below, &[&below], Some(&[&only_leaves])).complaint();
    assert_says(&complaint, "a certificate made with it does not verify");
}

#[test]
fn dates() {
    let root = Ca::root("root");
    let ended = root.intermediate_with("ended", |params| params.not_after = since(HOUR / 2));
    let complaint = Disk::new(&ended, &[&ended], Some(&[&root])).complaint();
    assert_says(&complaint, "certificate 1 (CN=ended) ended at 2");
    let coming = root.intermediate_with("coming", |params| params.not_before = in_(HOUR));
    let complaint = Disk::new(&coming, &[&coming], Some(&[&root])).complaint();
    assert_says(&complaint, "certificate 1 (CN=coming) begins at 2");
    let ended = Ca::root_with("ended", |params| params.not_after = since(HOUR / 2));
    let second = ended.intermediate("second");
    let complaint = Disk::new(&second, &[&second], Some(&[&ended])).complaint();
    assert_says(
        &complaint,
        "a certificate made with it does not verify: a certificate of the peer's chain ended at",
    );
}

#[test]
fn the_key_of_another() {
    let ca = Ca::root("root");
    let disk = Disk::new(&Ca::root("other"), &[&ca], None);
    assert_says(
        &disk.complaint(),
        "the private key does not belong to the first certificate (CN=root)",
    );
}

#[test]
fn an_intermediate_without_its_root() {
    let root = Ca::root("root");
    let second = root.intermediate("second");
    let complaint = Disk::new(&second, &[&second], None).complaint();
    assert_says(
        &complaint,
        "CN=second is an intermediate authority: name the file with its root as `bundle`",
    );
    let complaint = Disk::new(&second, &[&second], Some(&[&Ca::root("other")])).complaint();
    assert_says(
        &complaint,
        "no root in the trust bundle of example.org issued",
    );
}

#[test]
fn a_chain_in_the_wrong_order() {
    let root = Ca::root("root");
    let second = root.intermediate("second");
    let third = second.intermediate("third");
    let complaint = Disk::new(&third, &[&second, &third], Some(&[&root])).complaint();
    assert_says(
        &complaint,
        "certificate 1 (CN=second) was not issued by the one after it",
    );
    assert_says(
        &complaint,
        "the private key does not belong to the first certificate (CN=second)",
    );
}

#[test]
fn name_constraints() {
    let root = Ca::root("root");
    let bound = root.intermediate_with("bound", |params| {
        params.custom_extensions = vec![only_uris_of("other.test")];
    });
    let complaint = Disk::new(&bound, &[&bound], Some(&[&root])).complaint();
    assert_says(
        &complaint,
        "its name constraints do not allow spiffe:// names of example.org",
    );
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let ca = Ca::root("root");
    let disk = Disk::new(&ca, &[&ca], Some(&[&ca]));
    disk.folder.write("ca.crt", "nothing\n");
    disk.folder.write("ca.key", &ca.pem);
    disk.folder.remove("bundle.pem");
    let complaint = disk.complaint();
    assert_says(&complaint, "ca.crt: it holds no certificate");
    assert_says(&complaint, "ca.key: it holds no private key");
    assert_says(&complaint, "bundle.pem: No such file or directory");

    let disk = Disk::new(&ca, &[&ca], None);
    disk.folder.write("ca.key", format!("{0}{0}", ca.key_pem));
    assert_says(&disk.complaint(), "ca.key: it holds several private keys");
    disk.folder.write("ca.key", vec![b'-'; 2 << 20]);
    assert_says(&disk.complaint(), "ca.key: it is larger than 1 MiB");
    disk.folder.remove("ca.key");
    std::fs::create_dir(disk.folder.file("ca.key")).unwrap();
    assert_says(&disk.complaint(), "ca.key: it is not a regular file");
}

/// A damaged key file does not end up in a log.
#[test]
fn keys_are_never_quoted() {
    let ca = Ca::root("root");
    let disk = Disk::new(&ca, &[&ca], None);
    let damaged = ca.key_pem.replacen('M', "*M", 1);
    disk.folder.write("ca.key", &damaged);
    let complaint = disk.complaint();
    for line in damaged.lines().filter(|line| !line.starts_with('-')) {
        assert!(!complaint.contains(&line[..10]), "{complaint}");
    }
}

/// A bundle counts although the authority beside it does not.
#[test]
fn a_root_is_withdrawn_even_from_under_the_authority() {
    let (old, new) = (Ca::root("old"), Ca::root("new"));
    let disk = Disk::new(&old, &[&old], Some(&[&new]));
    let loaded = disk.load();
    assert!(loaded.complaint.is_some());
    let files = loaded.good.unwrap();
    assert!(files.authority.is_none());
    assert_eq!(files.bundle.roots()[0].subject, "CN=new");
}
