//! The network plug-in.

use super::super::Cni;
use super::{Block, block, path, plain, text, texts};

pub(super) fn cni_block(cni: &Cni) -> Block {
    let Cni {
        enabled,
        conf_dir,
        bin_dir,
        socket,
        exclude,
        daemonset,
    } = cni;
    block(
        "cni",
        None,
        [
            ("enabled", plain(enabled)),
            ("conf_dir", path(conf_dir)),
            ("bin_dir", path(bin_dir)),
            ("socket", path(socket)),
            ("exclude", texts(exclude)),
            ("daemonset", daemonset.as_ref().and_then(text)),
        ],
    )
}
