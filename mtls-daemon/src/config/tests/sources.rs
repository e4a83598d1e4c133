//! Authorities that are asked over a socket.

use super::*;

const NODE: &str = "version = 1\n[identity]\ntrust_domain = \"example.org\"\n";
const WEB: &str = "[[workload]]\nname = \"web\"\nspiffe_id = \"spiffe://example.org/web\"\nnetns = \"/web\"\naddresses = [\"10.0.1.4\"]\n";
const SPIRE: &str = "[identity.spire]\nsocket = \"/agent.sock\"\n";
const VAULT: &str = "[identity.vault]\naddress = \"https://vault:8200\"\nserver_ca = \"/vault.pem\"\nrole = \"web\"\nbundle = \"/roots.pem\"\n";

/// What is wrong with it.
fn wrong(text: &str) -> Vec<String> {
    let mistakes = parse("x", &format!("{NODE}{text}")).unwrap_err();
    mistakes.list.into_iter().map(|one| one.what).collect()
}

fn good(text: &str) -> Config {
    let config = parse("x", &format!("{NODE}{text}")).unwrap_or_else(|m| panic!("{m}"));
    let shown = effective(&config);
    let again = parse("shown", &shown).unwrap_or_else(|m| panic!("{m}\n{shown}"));
    assert_eq!(again, config, "{shown}");
    config
}

fn agent(config: &Config) -> Option<(&str, &SelectedBy)> {
    match config.source_of(&config.workloads[0])? {
        Source::Spire(Spire { socket }, selected) => Some((socket.to_str()?, selected)),
        _ => None,
    }
}

#[test]
fn a_workload_has_the_nodes_agent_and_may_be_selected_otherwise() {
    let config = good(&format!("{SPIRE}{WEB}"));
    assert_eq!(agent(&config), Some(("/agent.sock", &SelectedBy::Name)));
    let by_pid = "select = \"pid\"\n";
    let config = good(&format!("{SPIRE}{by_pid}{WEB}"));
    assert_eq!(agent(&config), Some(("/agent.sock", &SelectedBy::Pid)));
    let own = "[workload.spire]\nselectors = [\"unix:uid:7\"]\n";
    let config = good(&format!("{SPIRE}{by_pid}{WEB}{own}"));
    let Some(("/agent.sock", SelectedBy::Selectors(selectors))) = agent(&config) else {
        panic!("{config:?}");
    };
    assert_eq!(selectors[0].to_string(), "unix:uid:7");
    let elsewhere = "[workload.spire]\nsocket = \"/other.sock\"\n";
    let config = good(&format!("{SPIRE}{by_pid}{WEB}{elsewhere}"));
    assert_eq!(agent(&config), Some(("/other.sock", &SelectedBy::Pid)));
    let config = good(&format!("{WEB}{elsewhere}"));
    assert_eq!(agent(&config), Some(("/other.sock", &SelectedBy::Name)));
}

#[test]
fn what_an_agent_cannot_be_asked_by_is_told() {
    assert_eq!(
        wrong("[identity.spire]\n"),
        ["identity.spire.socket is missing"]
    );
    let of_workload = |more: &str| wrong(&format!("{WEB}[workload.spire]\n{more}"));
    assert_eq!(of_workload(""), ["the agent's socket is missing"]);
    assert_eq!(
        of_workload("socket = \"/a\"\nselectors = [\"uid\"]\n"),
        ["workload.spire.selectors: \"uid\" is no selector"]
    );
    assert_eq!(
        of_workload("socket = \"/a\"\nselectors = []\nselect = \"pid\"\n"),
        [
            "selectors is empty",
            "select and selectors say the same thing twice"
        ]
    );
    let found = wrong(&format!("{SPIRE}selectors = [\"a:b\"]\n"));
    assert!(found[0].contains("has no key \"selectors\""), "{found:?}");
}

#[test]
fn an_agent_brings_the_bundles_of_other_trust_domains() {
    let peer = "[[peer]]\nname = \"db\"\nspiffe_id = \"spiffe://partner.example/db\"\naddresses = [\"10.0.2.7\"]\n";
    good(&format!("{SPIRE}{WEB}{peer}"));
    let token = "token_file = \"/token\"\n";
    let found = wrong(&format!("{VAULT}{token}{WEB}{peer}"));
    assert!(
        found[0].contains("partner.example is not known here"),
        "{found:?}"
    );
}

#[test]
fn a_vault_is_logged_in_at_in_one_way() {
    let login = |more: &str| format!("{VAULT}{more}{WEB}");
    good(&login("token_file = \"/token\"\nnamespace = \"team/a\"\n"));
    let config = good(&login("role_id = \"web\"\nsecret_id_file = \"/secret\"\n"));
    let Some(Source::Vault(vault)) = config.identity.source else {
        panic!("{:?}", config.identity.source);
    };
    assert_eq!(
        (vault.mount.as_str(), vault.svid_ttl.as_secs()),
        ("pki", 3600)
    );
    assert_eq!(wrong(&login("")), ["nothing says how to log in"]);
    assert_eq!(
        wrong(&login("role_id = \"web\"\n")),
        ["secret_id_file is missing"]
    );
    assert_eq!(
        wrong(&login("role_id = \"web\"\ntoken_file = \"/token\"\n")),
        ["there is more than one way to log in"]
    );
    let config = good(&login("auth_role = \"node\"\n"));
    let Some(Source::Vault(vault)) = config.identity.source else {
        panic!("{:?}", config.identity.source);
    };
    let account = Login::Account {
        mount: "kubernetes".to_owned(),
        role: "node".to_owned(),
        token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
    };
    assert_eq!(vault.login, account);
    assert_eq!(
        wrong(&login("auth_role = \"node\"\nrole_id = \"web\"\n")),
        ["there is more than one way to log in"]
    );
    let found = wrong(&login("token_file = \"/token\"\nmount = \"pki/../sys\"\n"));
    assert_eq!(
        found,
        ["identity.vault.mount: \"pki/../sys\" is no path in Vault"]
    );
}

#[test]
fn no_login_travels_in_clear() {
    let at = |address: &str| {
        let vault = VAULT.replace("https://vault:8200", address);
        format!("{vault}token_file = \"/token\"\n{WEB}")
    };
    good(&at("http://127.0.0.1:8200"));
    for address in ["http://vault:8200", "http://10.0.0.1:8200"] {
        assert_eq!(wrong(&at(address)), ["a login would travel in clear"]);
    }
    let unverified = at("https://vault").replace("server_ca = \"/vault.pem\"\n", "");
    assert_eq!(
        wrong(&unverified),
        ["nothing says which authority vouches for the server"]
    );
}

#[test]
fn lists_are_somewhere_and_their_server_is_verified() {
    let crl = "[[identity.crl]]\ntrust_domain = \"example.org\"\n";
    let of = |more: &str| wrong(&format!("{SPIRE}{WEB}{crl}{more}"));
    for nowhere in ["", "files = []\n", "urls = []\n"] {
        assert_eq!(of(nowhere), ["nothing says where its lists are"]);
    }
    assert_eq!(
        of("urls = [\"https://ca/crl\"]\n"),
        ["nothing says which authority vouches for the server"]
    );
    assert_eq!(
        of("urls = [\"https://ca\"]\n"),
        ["identity.crl.urls: \"https://ca\" is no URL of a file"]
    );
    let plain = format!("{SPIRE}{WEB}{crl}urls = [\"http://ca/crl\"]\npoll = \"5s\"\n");
    assert_eq!(good(&plain).identity.crls[0].poll.as_secs(), 5);
}

#[test]
fn the_configurations_of_the_documentation_are_read() {
    for (page, text) in [
        ("spire", include_str!("../../../../docs/spire.md")),
        ("vault", include_str!("../../../../docs/vault.md")),
        (
            "cert-manager",
            include_str!("../../../../docs/cert-manager.md"),
        ),
    ] {
        let blocks = text.split("```toml\n").skip(1);
        let blocks: Vec<&str> = blocks
            .map(|rest| rest.split_once("```").unwrap().0)
            .collect();
        let text = format!("version = 1\n{}", blocks.join("\n"));
        let config = parse(page, &text).unwrap_or_else(|m| panic!("{m}"));
        assert!(!config.workloads.is_empty(), "{page}");
        assert_eq!(!config.identity.crls.is_empty(), page == "vault");
    }
}

#[test]
fn a_cert_manager_is_asked_in_some_namespace() {
    let asked = "[identity.cert-manager]\nissuer = \"mesh\"\nbundle = \"/roots.pem\"\n";
    let config = good(&format!("{asked}namespace = \"certs\"\n{WEB}"));
    let Some(Source::CertManager(found, None)) = &config.identity.source else {
        panic!("{:?}", config.identity.source);
    };
    assert_eq!(
        (found.issuer_kind.as_str(), found.issuer_group.as_str()),
        ("Issuer", "cert-manager.io")
    );
    assert_eq!(found.svid_ttl.as_secs(), 3600);
    // Pods have one of their own, a workload of the file has none.
    good(&format!("{asked}[kubernetes]\nnode_name = \"a\"\n"));
    assert_eq!(
        wrong(&format!("{asked}{WEB}")),
        [
            "workload \"web\" is no pod, and has no namespace in which its certificates could be asked for"
        ]
    );
    let own = asked.replace("identity", "workload");
    assert_eq!(
        wrong(&format!("{asked}{WEB}{own}")),
        ["workload.cert-manager.namespace is missing"]
    );
    good(&format!("{asked}{WEB}{own}namespace = \"certs\"\n"));
}

#[test]
fn secrets_are_the_pods_alone() {
    let read = "[identity.secrets]\nnamespaces = [\"shop\"]\nbundle = \"/roots.pem\"\n";
    let pods = "[kubernetes]\nnode_name = \"a\"\n";
    let config = good(&format!("{read}{pods}"));
    let Some(Source::Secrets(found, None)) = &config.identity.source else {
        panic!("{:?}", config.identity.source);
    };
    assert_eq!(found.name.of("web"), "web-tls");
    assert_eq!(
        wrong(&format!("{read}{WEB}")),
        ["workload \"web\" is no pod, and has no Secret"]
    );
    let own = read.replace("identity", "workload");
    assert_eq!(
        wrong(&format!("{read}{WEB}{own}")),
        ["[[workload]] has no key \"secrets\""]
    );
    let none = read.replace("[\"shop\"]", "[]");
    assert_eq!(
        wrong(&format!("{none}{pods}")),
        ["identity.secrets.namespaces is empty"]
    );
    let bad = read.replace("bundle", "name = \"{pod}\"\nbundle");
    assert_eq!(
        wrong(&format!("{bad}{pods}")),
        ["identity.secrets.name: \"{pod}\" makes no names of Secrets"]
    );
}
