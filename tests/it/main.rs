//! End-to-end stories: real kernel programs, real daemons, real applications.
//! One binary, so that one process owns what the stories make; one story a
//! file, and each can be read alone.

// The harness itself.
mod harness_leaves_nothing;
mod harness_runs_applications;
mod harness_sees_plain_text;
mod kernel;

// One connection, in all its shapes.
mod bound_source;
mod bulk;
mod client_gone;
mod half_close;
mod listeners;
mod names;
mod not_listening;
mod own_address;
mod own_loopback;
mod own_rights;
mod reset;
mod revocation;
mod root_rotation;
mod same_node;
mod same_port_twice;
mod server_speaks_first;
mod services;
mod tls_secrets;
mod truthful_clients;
mod truthful_connect;
mod udp;
mod ways_to_connect;

// Many connections, and their limits.
mod descriptor_limit;
mod handshakes;
mod held_connects;
mod nothing_leaks;
mod outbound_ports;
mod slow_readers;
mod thousand_connections;

// Who may not.
mod address_not_assigned;
mod admin;
mod capture_address;
mod crowded_door;
mod daemons_ports_taken;
mod disk_full;
mod downgrade;
mod exclusions;
mod forged_packets;
mod forged_probes;
mod host_ports;
mod hostile_peer;
mod listener_of_another_cgroup;
mod outsiders;
mod permissive;
mod policy;
mod policy_agrees;
mod spoofing;
mod unknown_namespace;
mod veth_gate;
mod wrong_identity;
mod wrong_root;

// Things that happen.
mod boots_armed;
mod cert_manager;
mod certificates;
mod cgroup_remade;
mod check_cluster;
mod clock_steps;
mod cluster;
mod cluster_beside_kube_proxy;
mod cluster_changes;
mod cluster_reboot;
mod cluster_sources;
mod cluster_uninstalled;
mod configuration_reload;
mod daemon_killed;
mod daemon_restarted_under_load;
mod drain;
mod enforcement_outlives_the_daemon;
mod enrolled_by_hand;
mod foreign_programs;
mod interface_flaps;
mod issuer_ended;
mod kubernetes;
mod kubernetes_modes;
mod kubernetes_outside;
mod kubernetes_policies;
mod lossy_wire;
mod nameless;
mod peer_unreachable;
mod pins_removed;
mod secrets;
mod slow_issuer;
mod spire;
mod spire_refuses;
mod strict_under_load;
mod stuck_directory;
mod terminating;
mod vault;
mod vault_by_account;
mod vault_revokes;
mod workload_recreated;

// Real applications, and their operators.
mod applications;
mod operators_view;
mod units;
