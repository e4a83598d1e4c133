//! What openssl makes: the commands of docs/identity.md as they stand there,
//! every kind and encoding of key, and what common tutorials lead to.

use std::process::Command;
use std::time::{Duration, SystemTime};

use mtls_daemon::config::{self, DiskCa, Files};
use mtls_daemon::identity::disk_ca;
use mtls_daemon::identity::files;
use mtls_daemon::identity::{Revocations, Svid, TrustBundles, openssl_line};

use crate::folder::Folder;
use crate::pki::{HOUR, WEB, id, trust_domain};

/// Runs a script with openssl in `folder`; it must succeed.
fn run(folder: &Folder, script: &str) {
    let ran = Command::new("sh")
        .args(["-euc", script])
        .current_dir(folder.path())
        .output();
    let output = ran.expect("sh and openssl are needed: install openssl 3");
    assert!(
        output.status.success(),
        "{script}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The fenced blocks of docs/identity.md in one language.
fn blocks(language: &str) -> Vec<String> {
    let page = include_str!("../../../docs/identity.md");
    let fence = format!("```{language}\n");
    let blocks = page.split(&fence).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

fn disk_ca_in(folder: &Folder, bundle: Option<&str>) -> DiskCa {
    DiskCa {
        certificate: folder.file("ca.pem"),
        key: folder.file("ca-key.pem"),
        bundle: bundle.map(|name| folder.file(name)),
        svid_ttl: HOUR,
    }
}

fn files_in(folder: &Folder) -> Files {
    Files {
        certificate: folder.file("tls.crt"),
        key: folder.file("tls.key"),
        bundle: folder.file("ca.crt"),
    }
}

/// The authority makes a certificate that its peers take.
fn assert_issues(config: &DiskCa) {
    let now = SystemTime::now();
    let read = disk_ca::read(config, &trust_domain("example.org"), now);
    assert_eq!(read.complaint, None);
    let read = read.good.unwrap();
    let issued = read.authority.unwrap().issue(&id(WEB), now).unwrap();
    let bundles = TrustBundles::from_iter([read.bundle]);
    Svid::admit(issued, &id(WEB), &bundles, Revocations::none(), now).unwrap();
}

fn complaint_of(folder: &Folder, spiffe_id: &str) -> Option<String> {
    let domain = trust_domain("example.org");
    files::read(
        &files_in(folder),
        &domain,
        &id(spiffe_id),
        SystemTime::now(),
    )
    .complaint
}

#[test]
fn the_commands_of_the_documentation_work() {
    let folder = Folder::new();
    for script in blocks("sh") {
        run(&folder, &script);
    }
    assert_issues(&disk_ca_in(&folder, Some("roots.pem")));
    assert_eq!(
        complaint_of(&folder, "spiffe://example.org/ns/shop/sa/web"),
        None
    );
}

#[test]
fn the_configuration_of_the_documentation_is_read() {
    let text = format!("version = 1\n{}", blocks("toml").join("\n"));
    let config = config::parse("docs/identity.md", &text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.workloads.len(), 1);
    assert_eq!(config.identity.federated.len(), 1);
    assert_eq!(config.identity.crls.len(), 1);
}

/// The command in the error message works as it stands.
#[test]
fn the_command_of_the_error_works() {
    let folder = Folder::new();
    run(
        &folder,
        &format!(
            "{}\n{}",
            root("ec -pkeyopt ec_paramgen_curve:P-256"),
            openssl_line(&id(WEB))
        ),
    );
    assert_eq!(complaint_of(&folder, WEB), None);
}

/// A root as `ca.crt` and `ca.key`, with nothing said of its extensions.
fn root(key: &str) -> String {
    format!(
        "openssl req -x509 -newkey {key} -noenc -keyout ca.key -out ca.crt -days 30 -subj '/CN=root'"
    )
}

const EXTENSIONS: &str = "-addext basicConstraints=critical,CA:FALSE \
    -addext keyUsage=critical,digitalSignature -addext extendedKeyUsage=serverAuth,clientAuth";

#[test]
fn every_kind_of_key() {
    for kind in [
        "rsa:2048",
        "rsa:3072",
        "ec -pkeyopt ec_paramgen_curve:P-256",
        "ec -pkeyopt ec_paramgen_curve:P-384",
        "ec -pkeyopt ec_paramgen_curve:P-521",
        "ed25519",
    ] {
        let folder = Folder::new();
        run(
            &folder,
            &format!(
                "{root}
                 openssl req -new -newkey {kind} -noenc -keyout tls.key -subj / {EXTENSIONS} \
                     -addext subjectAltName=critical,URI:{WEB} |
                 openssl x509 -req -copy_extensions copy -CA ca.crt -CAkey ca.key -days 30 -out tls.crt
                 cp ca.crt ca.pem; cp ca.key ca-key.pem",
                root = root(kind)
            ),
        );
        assert_eq!(complaint_of(&folder, WEB), None, "{kind}");
        assert_issues(&disk_ca_in(&folder, None));

        // The older encodings, where there are any.
        if !kind.starts_with("ed") {
            run(
                &folder,
                "openssl pkey -traditional -in tls.key -out old.key
                 ! grep -q 'BEGIN PRIVATE KEY' old.key
                 mv old.key tls.key
                 openssl pkey -traditional -in ca-key.pem -out old.key; mv old.key ca-key.pem",
            );
            assert_eq!(complaint_of(&folder, WEB), None, "{kind}, traditional");
            assert_issues(&disk_ca_in(&folder, None));
        }
    }
}

/// `openssl ecparam -genkey` writes the curve's name before the key.
#[test]
fn parameters_before_the_key() {
    let folder = Folder::new();
    run(
        &folder,
        &format!(
            "{root}
             openssl ecparam -name prime256v1 -genkey -out tls.key
             grep -q 'BEGIN EC PARAMETERS' tls.key
             openssl req -new -key tls.key -subj / {EXTENSIONS} -addext subjectAltName=critical,URI:{WEB} |
             openssl x509 -req -copy_extensions copy -CA ca.crt -CAkey ca.key -days 30 -out tls.crt",
            root = root("rsa:2048")
        ),
    );
    assert_eq!(complaint_of(&folder, WEB), None);
}

/// As common tutorials have it: a self-signed certificate and no name.
#[test]
fn a_certificate_as_in_a_tutorial() {
    let folder = Folder::new();
    run(
        &folder,
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -days 365 -subj /CN=web
         cp tls.crt ca.crt",
    );
    let complaint = complaint_of(&folder, WEB).unwrap();
    for words in [
        "it carries no URI subject alternative name",
        "openssl req -new",
        "the certificate is that of an authority (CA:TRUE)",
        "lacks the extended key usages serverAuth and clientAuth",
    ] {
        assert!(
            complaint.contains(words),
            "{words:?} is missing in: {complaint}"
        );
    }

    // A request with a DNS name, whose extensions the signing then drops.
    let folder = Folder::new();
    run(
        &folder,
        &format!(
            "{root}
             openssl req -new -newkey rsa:2048 -nodes -keyout tls.key -subj /CN=web -addext subjectAltName=DNS:web |
             openssl x509 -req -CA ca.crt -CAkey ca.key -days 30 -out tls.crt",
            root = root("rsa:2048")
        ),
    );
    let complaint = complaint_of(&folder, WEB).unwrap();
    assert!(
        complaint.contains("it carries no URI subject alternative name"),
        "{complaint}"
    );
}

#[test]
fn encrypted_keys() {
    for how in ["", "-traditional"] {
        let folder = Folder::new();
        run(
            &folder,
            &format!(
                "{root}
                 {line}
                 openssl pkey {how} -aes256 -passout pass:secret -in tls.key -out enc.key; mv enc.key tls.key",
                root = root("rsa:2048"),
                line = openssl_line(&id(WEB)),
            ),
        );
        let complaint = complaint_of(&folder, WEB).unwrap();
        assert!(
            complaint.contains("its private key is encrypted"),
            "{how}: {complaint}"
        );
    }
}

/// A bundle with text around its certificates, as `openssl x509 -text` and
/// many distributions write them, and with line ends of another system.
#[test]
fn text_around_certificates() {
    let folder = Folder::new();
    run(
        &folder,
        &format!(
            "{root}
             {line}
             openssl x509 -in ca.crt -text -out text.crt; mv text.crt ca.crt
             openssl x509 -in tls.crt -text | sed 's/$/\\r/' > text.crt; mv text.crt tls.crt",
            root = root("rsa:2048"),
            line = openssl_line(&id(WEB)),
        ),
    );
    assert_eq!(complaint_of(&folder, WEB), None);
}

/// Names in unusual forms are copied as they stand.
#[test]
fn authorities_of_any_name() {
    for subject in [
        "-subj '/C=DE/O=Größe & Söhne/OU=a+b/CN=root' -utf8",
        "-multivalue-rdn -subj '/CN=root+OU=two in one/serialNumber=7'",
        "-subj '/DC=org/DC=example/CN=root/emailAddress=ca@example.org'",
        "-subj '/CN=printable' -nameopt esc_msb",
    ] {
        let folder = Folder::new();
        run(
            &folder,
            &format!(
                "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc \
                     -keyout ca-key.pem -out ca.pem -days 30 {subject}"
            ),
        );
        assert_issues(&disk_ca_in(&folder, None));
    }
}

/// openssl agrees that a certificate of ours is what it should be.
#[test]
fn openssl_verifies_what_we_make() {
    let folder = Folder::new();
    for script in blocks("sh") {
        run(&folder, &script);
    }
    let now = SystemTime::now();
    let config = disk_ca_in(&folder, Some("roots.pem"));
    let read = disk_ca::read(&config, &trust_domain("example.org"), now)
        .good
        .unwrap();
    let issued = read
        .authority
        .unwrap()
        .issue(&id(WEB), now + Duration::from_secs(1))
        .unwrap();
    folder.write("leaf.pem", crate::pki::pem(&issued.chain[0]));
    folder.write("chain.pem", crate::pki::pem(&issued.chain[1]));
    run(
        &folder,
        &format!(
            "for purpose in sslserver sslclient; do
                 openssl verify -x509_strict -purpose $purpose -CAfile roots.pem -untrusted chain.pem leaf.pem
             done
             openssl x509 -in leaf.pem -noout -text | grep -q 'URI:{WEB}'"
        ),
    );
}
