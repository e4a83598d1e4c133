//! What breaks by itself.

use super::{Row, row};

pub(super) const FAULTS: &[Row] = &[
    row(
        "kill -9 of either daemon",
        &[
            "daemon_killed.rs#clients_daemon_killed",
            "daemon_killed.rs#servers_daemon_killed",
        ],
        "resets; traffic again as soon as it runs",
    ),
    row(
        "No memory: the kernel kills the daemon, or its helper, at whatever it is doing",
        &["daemon_killed.rs#out_of_memory"],
        "resets; traffic again as soon as it runs",
    ),
    row(
        "The helper that enters network namespaces is killed",
        &["own_rights.rs#own_rights"],
        "the daemon ends at once and says so; refused until the next one runs",
    ),
    row(
        "Restart under load",
        &["daemon_restarted_under_load.rs#daemon_restarted_under_load"],
        "no wrong byte, no silent end",
    ),
    row(
        "No descriptors",
        &["descriptor_limit.rs#descriptor_limit"],
        "new connections refused, recovers",
    ),
    row(
        "The disk with the log is full",
        &["disk_full.rs#disk_full"],
        "traffic goes on, the lines that are lost are counted, and the log goes on when there is room",
    ),
    row(
        "The issuer ends",
        &["issuer_ended.rs#issuer_ended"],
        "refuses, alarms, recovers with the next",
    ),
    row(
        "The issuer is slow, or says nothing at all",
        &["slow_issuer.rs#slow_issuer"],
        "slow: nobody notices; nothing for longer than certificates live: told, refuses, recovers when it speaks",
    ),
    row(
        "A node boots, and its workloads' issuer and the resolver that leads to it are workloads of its own",
        &["boots_armed.rs#boots_armed"],
        "refused from the gate to the daemon; it comes up by itself",
    ),
    row(
        "The clock steps",
        &[
            "clock_steps.rs#clock_steps",
            "mtls-daemon/tests/identity/renewal.rs#the_clock_steps",
        ],
        "deadlines are computed anew",
    ),
    row(
        "SPIRE or Vault is away, sealed, or refuses",
        &[
            "spire.rs#spire",
            "spire_refuses.rs#spire_refuses",
            "vault.rs#vault",
        ],
        "certificates in hand are used to their end, trouble is told",
    ),
    row(
        "The wire goes down, the peer has no daemon",
        &["peer_unreachable.rs#peer_unreachable"],
        "refused within the limit, recovers",
    ),
    row(
        "The attach point's cgroup is removed and made again",
        &["cgroup_remade.rs#cgroup_remade"],
        "attached again, told as an error",
    ),
    row(
        "The pins are removed, or the bpffs unmounted, beside a running daemon",
        &[
            "pins_removed.rs#pins_removed_beside_the_daemon",
            "pins_removed.rs#bpffs_unmounted_under_the_daemon",
        ],
        "nothing is cut, nothing in clear; pinned again at once, or as soon as there is a bpffs, and not ready until then",
    ),
    row(
        "The pins are removed, or the bpffs unmounted, beside no daemon",
        &["enforcement_outlives_the_daemon.rs#removing_the_pins_removes_enforcement"],
        "enforcement ends: for root on the host only, and said in operations.md",
    ),
    row(
        "Pins of a second daemon or of another version; a private bpffs",
        &[
            "kernel/restarts.rs#kernel_refuses_a_second_daemon_and_foreign_pins",
            "kernel/lacks.rs#kernel_refuses_a_private_bpffs",
        ],
        "refuses to start, with the remedy",
    ),
    row(
        "Programs of somebody else at the same hooks, that look on, lead past the daemon, or suffer no other",
        &[
            "foreign_programs.rs#foreign_programs",
            "kernel/lacks.rs#kernel_needs_a_cgroup_to_share",
        ],
        "enforcement goes on, what is led past is stopped by the gate, `check` names each; refuses to start beside one that suffers no other",
    ),
    row(
        "An interface goes down and comes up: a pod's veth, the wire",
        &["interface_flaps.rs#interface_flaps"],
        "what is open is carried to its last byte or reset, new connections pass again without help",
    ),
    row(
        "One packet in a hundred is lost, each way",
        &["lossy_wire.rs#lossy_wire"],
        "every byte arrives",
    ),
    row(
        "A network namespace loses its name",
        &["nameless.rs#nameless_namespace_stays_refused"],
        "stays refused",
    ),
    row(
        "The Kubernetes API server is away",
        &[
            "kubernetes.rs#kubernetes",
            "kubernetes_outside.rs#kubernetes_outside",
            "cluster_changes.rs#cluster_changes",
        ],
        "what is known goes on",
    ),
    row(
        "The Kubernetes API server takes connections and says nothing",
        &["stuck_directory.rs#stuck_directory"],
        "what is known goes on, also in a daemon that starts then; what is not is refused within a limit",
    ),
];
