//! Policies: what is read, what is refused, and what is strange.

use super::*;

fn policy(rest: &str) -> String {
    format!("[[authorization-policy]]\nname = \"callers\"\n{rest}")
}

/// Of a policy with this rule.
fn rule(rule: &str) -> String {
    policy(&format!("rules = [{rule}]\n"))
}

const PEERS: &str = r#"
[[peer]]
name = "web"
spiffe_id = "spiffe://example.org/web"
addresses = ["10.0.2.8"]
[[peer]]
name = "api"
spiffe_id = "spiffe://example.org/ns/shop/sa/api"
addresses = ["10.0.2.9"]
"#;

fn read(text: &str) -> Vec<AuthorizationPolicy> {
    with(text)
        .unwrap_or_else(|wrong| panic!("{wrong}"))
        .authorization
}

/// Those about policies.
fn strange(text: &str) -> Vec<String> {
    let mut warnings = warnings(&format!("{text}{PEERS}"));
    warnings.retain(|warning| !warning.starts_with("network.mesh is empty"));
    warnings
}

#[test]
fn a_policy_is_read_with_all_its_words() {
    let read = read(
        r#"
[[authorization-policy]]
name = "callers"
action = "DENY"
dry_run = true
workloads = ["db", "shop/web-1", "spiffe://example.org/ns/shop/*"]
[[authorization-policy.rules]]
[[authorization-policy.rules.from]]
principals = ["spiffe://example.org/web", "example.org/api", "example.org/ns/*", "*/sa/x", "*"]
not_principals = ["spiffe://*"]
namespaces = ["shop"]
not_namespaces = ["test*"]
ip_blocks = ["10.0.1.0/24", "fd00::7/128"]
not_ip_blocks = ["10.0.1.9/32"]
remote_ip_blocks = ["192.0.2.0/24"]
not_remote_ip_blocks = ["192.0.2.9/32"]
[[authorization-policy.rules.to]]
ports = [80]
not_ports = [443]
[[authorization-policy.rules]]
"#,
    );
    let [policy] = read.as_slice() else {
        panic!("{read:?}")
    };
    assert_eq!((policy.action, policy.dry_run), (Action::Deny, true));
    let exact = |text: &str| Pattern::Exact(text.to_owned());
    let Scope::Any(workloads) = &policy.workloads else {
        panic!("{policy:?}")
    };
    let shown: Vec<String> = workloads.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["db", "shop/web-1", "spiffe://example.org/ns/shop/*"]
    );
    assert_eq!(workloads[1], Selected::Name("shop/web-1".to_owned()));
    let [first, second] = policy.rules.as_slice() else {
        panic!("{policy:?}")
    };
    assert_eq!(
        (&*first.label, &*second.label),
        ("callers[0]", "callers[1]")
    );
    assert_eq!(
        first.from[0].principals,
        [
            exact("example.org/web"),
            exact("example.org/api"),
            Pattern::Prefix("example.org/ns/".to_owned()),
            Pattern::Suffix("/sa/x".to_owned()),
            Pattern::Present,
        ]
    );
    assert_eq!(first.from[0].not_principals, [Pattern::Present]);
    assert_eq!(first.from[0].ip_blocks.len(), 2);
    assert_eq!(first.to[0].ports, [80]);
    assert!(second.from.is_empty() && second.to.is_empty());
    let line = |written: &Written| match written {
        Written::File { line, .. } => line - SMALL.lines().count(),
        Written::Object(_) => 0,
    };
    assert_eq!(line(&policy.written), 3);
    assert_eq!(line(&second.written), 20);
}

#[test]
fn what_goes_beyond_connections_is_refused() {
    for (text, word) in [
        (rule(r#"{ to = [{ methods = ["GET"] }] }"#), "methods"),
        (rule(r#"{ to = [{ paths = ["/"] }] }"#), "paths"),
        (rule(r#"{ to = [{ hosts = ["x"] }] }"#), "hosts"),
        (rule(r#"{ to = [{ notPaths = ["/"] }] }"#), "notPaths"),
        (
            rule(r#"{ from = [{ requestPrincipals = ["*"] }] }"#),
            "requestPrincipals",
        ),
        (
            rule(r#"{ when = [{ key = "request.headers[x]" }] }"#),
            "when",
        ),
        (policy("selector = { a = 1 }\n"), "selector"),
    ] {
        let told = mistakes(&text);
        let expected = format!("{word} is not understood here, and nothing of a policy is ignored");
        assert!(
            told.iter().any(|told| told.contains(&expected)),
            "{text}: {told:?}"
        );
    }
    let audit = mistakes(&policy("action = \"AUDIT\"\n"));
    assert_eq!(audit.len(), 1, "{audit:?}");
    let camel = mistakes(&rule(r#"{ from = [{ notPrincipals = ["*"] }] }"#));
    assert!(
        camel
            .iter()
            .any(|told| told.contains("did you mean `not_principals`?")),
        "{camel:?}"
    );
}

#[test]
fn nothing_means_any_by_accident() {
    for (text, what) in [
        (rule("{ from = [] }"), "from is empty"),
        (rule("{ from = [{}] }"), "this item of from says nothing"),
        (rule("{ to = [{}] }"), "this item of to says nothing"),
        (
            rule("{ from = [{ principals = [] }] }"),
            "principals is empty",
        ),
        (policy("workloads = []\n"), "workloads is empty"),
    ] {
        let told = mistakes(&text);
        let here = |told: &String| told.starts_with("3:") && told.contains(what);
        assert!(told.iter().any(here), "{text}: {told:?}");
    }
}

#[test]
fn patterns_are_those_that_istio_has() {
    for (pattern, what) in [
        ("a*b", "has a * in its middle, or two"),
        ("*a*", "has a * in its middle, or two"),
        ("", "an empty text matches nothing"),
        ("example.org", "is no SPIFFE ID"),
        ("spiffe://Example.org/web", "is no SPIFFE ID"),
        ("example.org/../x", "is no SPIFFE ID"),
        ("*/sa/é", "matches no SPIFFE ID"),
    ] {
        let told = mistakes(&rule(&format!(
            "{{ from = [{{ principals = [\"{pattern}\"] }}] }}"
        )));
        assert!(
            told.len() == 1 && told[0].contains(what),
            "{pattern}: {told:?}"
        );
    }
    for (workload, what) in [
        ("d*", "names have no wildcards"),
        ("a/b/c", "is no name of a workload"),
        ("spiffe://a*b", "has a * in its middle"),
    ] {
        let told = mistakes(&policy(&format!("workloads = [\"{workload}\"]\n")));
        assert!(
            told.len() == 1 && told[0].contains(what),
            "{workload}: {told:?}"
        );
    }
    let twice = mistakes(&format!("{}{}", policy(""), policy("")));
    assert!(
        twice[0].contains("another policy is called \"callers\" already, at node.toml:"),
        "{twice:?}"
    );
}

#[test]
fn what_can_never_match_is_told() {
    let source = |keys: &str| rule(&format!("{{ from = [{{ {keys} }}] }}"));
    let target = |keys: &str| rule(&format!("{{ to = [{{ {keys} }}] }}"));
    for (text, what) in [
        (
            policy("workloads = [\"nobody\"]\n"),
            "no workload is nobody",
        ),
        (
            policy("workloads = [\"spiffe://other.org/*\"]\n"),
            "no workload is spiffe://other.org/*",
        ),
        (
            policy("action = \"DENY\"\n"),
            "has no rules, so it never denies anything",
        ),
        (
            source("principals = [\"example.org/nobody\"]"),
            "no workload and no peer is example.org/nobody",
        ),
        (
            source("principals = [\"example.org*\"]"),
            "matches every trust domain whose name begins like that",
        ),
        (
            source("principals = [\"*/web\"], not_principals = [\"example.org/x\", \"*web\"]"),
            "all of principals is excluded by not_principals",
        ),
        (
            source("namespaces = [\"ns/shop\"]"),
            "no namespace is ns/shop",
        ),
        (
            source("ip_blocks = [\"10.1.0.0/16\"], not_ip_blocks = [\"10.0.0.0/8\"]"),
            "all of ip_blocks is excluded by not_ip_blocks",
        ),
        (
            target("ports = [80], not_ports = [80]"),
            "all of ports is excluded by not_ports",
        ),
        (
            target("ports = [15008]"),
            "15008 is the port of the tunnels",
        ),
    ] {
        let told = strange(&text);
        assert!(
            told.iter().any(|told| told.contains(what)),
            "{text}: {told:?}"
        );
    }
    let good = source("principals = [\"spiffe://example.org/web\", \"*/ns/shop/sa/api\", \"*\"]");
    assert_eq!(strange(&good), Vec::<String>::new());
    let pods =
        with_warnings_of_a_cluster("workloads = [\"shop/web-1\", \"spiffe://example.org/ns/*\"]\n");
    assert_eq!(
        pods,
        Vec::<String>::new(),
        "who is in a cluster no file can say"
    );
}

fn with_warnings_of_a_cluster(rest: &str) -> Vec<String> {
    let text = format!("{}[kubernetes]\nnode_name = \"a\"\n", policy(rest));
    warnings(&text)
}

/// A folder of policies, as the daemon finds it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("mtls-policies-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn read(&self, own: &str) -> Result<Loaded, Mistakes> {
        let directory = self.0.display();
        let config = with(&format!("[policy]\ndirectory = \"{directory}\"\n{own}"))?;
        config.with_policy_directory()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_folder_of_policies_is_read_whole_or_not_at_all() {
    let folder = Folder::new("whole");
    let named = |name: &str| format!("version = 1\n[[authorization-policy]]\nname = \"{name}\"\n");
    folder.write("b.toml", &named("b"));
    folder.write("a.toml", &named("a"));
    folder.write(".hidden.toml", "nonsense");
    folder.write("notes.txt", "nonsense");
    let loaded = folder.read(&policy("")).unwrap();
    let names: Vec<&str> = loaded
        .config
        .authorization
        .iter()
        .map(|p| p.name.as_str())
        .collect();
    assert_eq!(names, ["callers", "a", "b"]);
    let again = loaded.config.clone().with_policy_directory().unwrap();
    assert_eq!(again.config, loaded.config, "nothing stands there twice");
    let shown = effective(&loaded.config);
    assert!(
        !shown.contains("name = \"a\""),
        "it stays in its file: {shown}"
    );

    let path = |name: &str| folder.0.join(name).display().to_string();
    folder.write("c.toml", &named("a"));
    folder.write(
        "d.toml",
        &format!("{}\n[node]\nmode = \"off\"\n", named("d")),
    );
    folder.write("e.toml", "[[authorization-policy");
    let told: Vec<String> = folder.read("").unwrap_err().lines().collect();
    let starts = [
        format!(
            "{}:3:8: another policy is called \"a\" already, at {}:3",
            path("c.toml"),
            path("a.toml")
        ),
        format!("{}:5:2: a file of policies has no \"node\"", path("d.toml")),
        format!("{}:1:", path("e.toml")),
    ];
    assert_eq!(told.len(), starts.len(), "{told:?}");
    for (told, start) in told.iter().zip(&starts) {
        assert!(told.starts_with(start), "{told} is not {start}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_a_mistake() {
    let text = "[policy]\ndirectory = \"/nowhere/policy.d\"\n";
    let mistakes = with(text).unwrap().with_policy_directory().unwrap_err();
    let told = mistakes.to_string();
    assert!(
        told.starts_with("/nowhere/policy.d: the folder of policies cannot be read"),
        "{told}"
    );
}

#[test]
fn a_change_shows_in_the_stamp() {
    let folder = Folder::new("stamp");
    let empty = Stamp::of(&folder.0);
    folder.write("a.toml", "one");
    let one = Stamp::of(&folder.0);
    assert_ne!(empty, one);
    assert_eq!(one, Stamp::of(&folder.0));
    folder.write("a.toml", "three");
    assert_ne!(one, Stamp::of(&folder.0));
}
