//! The network plug-in.

use super::super::Cni;
use super::{Block, block, path, plain, texts};

pub(super) fn cni_block(cni: &Cni) -> Block {
    let Cni {
        enabled,
        conf_dir,
        bin_dir,
        socket,
        exclude,
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
        ],
    )
}
