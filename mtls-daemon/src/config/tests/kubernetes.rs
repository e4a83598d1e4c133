//! The section of a cluster's node.

use super::*;

#[test]
fn a_cluster_needs_no_key() {
    assert_eq!(with("").unwrap().kubernetes, None);
    let cluster = with("[kubernetes]\nnode_name = \"n1\"\n")
        .unwrap()
        .kubernetes;
    let cluster = cluster.unwrap();
    assert_eq!(cluster.node, "n1");
    assert_eq!(cluster.kubeconfig, None);
    assert_eq!(cluster.label_prefix, "mtls-daemon.io");
    assert_eq!(cluster.mode, Mode::Off);
}

#[test]
fn a_cluster_is_written_as_it_was_read() {
    let config = with(
        "[kubernetes]\nnode_name = \"n1\"\nkubeconfig = \"/k\"\nspiffe_path = \"/{namespace}/x\"\n\
         label_prefix = \"mesh.example.org\"\nmode = \"strict\"\ndaemonset = \"mesh\"\n\
         [cni]\nenabled = true\nexclude = [\"infra\"]\n",
    );
    let config = config.unwrap();
    let cluster = config.kubernetes.as_ref().unwrap();
    assert_eq!(cluster.daemonset.as_deref(), Some("mesh"));
    let shown = effective(&config);
    assert_eq!(parse("shown", &shown).unwrap(), config, "{shown}");
}

#[test]
fn mistakes_of_a_cluster_say_what_to_write() {
    let found = mistakes(
        "[kubernetes]\nspiffe_path = \"/ns/{pod}\"\nlabel_prefix = \"Mesh_1/\"\nnode_nam = \"a\"\n",
    );
    assert_eq!(found.len(), 3, "{found:?}");
    let all = found.join("\n");
    for said in [
        "makes no SPIFFE IDs",
        "there are no other placeholders",
        "is no prefix of labels",
        "did you mean `node_name`?",
    ] {
        assert!(all.contains(said), "{said}: {all}");
    }
}

#[test]
fn pods_need_a_source_that_issues_for_each() {
    let text = "version = 1\n[identity]\ntrust_domain = \"example.org\"\n[identity.files]\n\
                certificate = \"/c\"\nkey = \"/k\"\nbundle = \"/b\"\n[kubernetes]\n";
    let mistakes = parse("x", text).unwrap_err();
    let [mistake] = mistakes.list.as_slice() else {
        panic!("{mistakes}")
    };
    assert!(
        mistake.what.contains("for the pods of this node"),
        "{mistake:?}"
    );
}

#[test]
fn with_a_cluster_the_networks_are_its_own() {
    let warned = |more| {
        warnings(more)
            .iter()
            .any(|w| w.contains("network.mesh is empty"))
    };
    assert!(warned(""));
    assert!(!warned("[kubernetes]\n"));
}

#[test]
fn pods_wait_for_a_cluster_that_is_known_only() {
    let cni = with("[kubernetes]\n[cni]\nenabled = true\n").unwrap().cni;
    assert!(cni.enabled);
    assert_eq!(cni.exclude, ["kube-system"]);
    assert!(!with("").unwrap().cni.enabled);

    let found = mistakes("[cni]\nenabled = true\n");
    assert!(found[0].contains("add [kubernetes]"), "{found:?}");
    let text = "version = 1\n[identity]\ntrust_domain = \"example.org\"\n[identity.spire]\n\
                socket = \"/s\"\nselect = \"pid\"\n[kubernetes]\n[cni]\nenabled = true\n";
    let mistakes = parse("x", text).unwrap_err();
    let [mistake] = mistakes.list.as_slice() else {
        panic!("{mistakes}")
    };
    assert!(mistake.what.contains("no process yet"), "{mistake:?}");
}
