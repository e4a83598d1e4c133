//! The network plug-in, from the daemon's start to its end: kept in its place
//! by a daemon that runs, left there by one that is replaced, and taken away by
//! one that is uninstalled.

use std::rc::Rc;

use thiserror::Error;

use crate::admin::AdminError;
use crate::cni::door::{self, Open};
use crate::cni::install::Place;
use crate::cni::keeper::Keeper;
use crate::kubernetes::{self, Plugin as Said};

use super::Node;

/// Why pods cannot be held back.
#[derive(Debug, Error)]
pub enum PluginError {
    #[error("cni.socket: {0}")]
    Socket(#[from] AdminError),
    #[error("cni: watching over the plug-in: {0}")]
    Watch(#[from] std::io::Error),
}

/// What a node with the plug-in has.
pub struct Plugin {
    keeper: Keeper,
    /// Closed when this goes.
    _door: Open,
    /// What the API server said of it when this daemon started.
    said: Option<Said>,
}

impl Plugin {
    pub(super) fn trouble(&self) -> Option<String> {
        self.keeper.trouble()
    }
}

impl Node {
    /// Whoever is asked for by the plug-in must be there: what is attached and
    /// known comes first.
    pub async fn install_plugin(self: &Rc<Self>) -> Result<(), PluginError> {
        let config = self.config.borrow().clone();
        let (cni, place) = (&config.cni, Place::new(&config.cni));
        if !cni.enabled {
            // An earlier daemon's.
            for path in place.remove().unwrap_or_default() {
                tracing::info!(path = %path.display(), "network plug-in taken out");
            }
            return Ok(());
        }
        let door = door::open(Rc::clone(self), &cni.socket)?;
        let keeper = Keeper::start(place)?;
        let said = self.ask_for_plugin().await;
        match &said {
            None | Some(Said::Wanted) => {}
            Some(said) => tracing::warn!(
                ?said,
                "kubernetes.daemonset: the entry of the network plug-in may stay behind when the daemon is uninstalled"
            ),
        }
        self.plugin.replace(Some(Plugin {
            keeper,
            _door: door,
            said,
        }));
        Ok(())
    }

    /// Nothing is enforced any more, and no pod has anything to wait for.
    pub(super) fn detach_plugin(&self) {
        let left = self.plugin.borrow().as_ref().map(|it| it.keeper.leave());
        match left {
            Some(Ok(from)) if !from.is_empty() => {
                tracing::warn!(?from, "enforcement was detached: network plug-in taken out");
            }
            Some(Err(error)) => tracing::error!(%error, "the network plug-in's entry stays"),
            Some(Ok(_)) | None => {}
        }
    }

    /// At the daemon's end. Pods that begin from now on wait for the next
    /// daemon, unless there will be none.
    pub async fn leave_plugin(&self) {
        if self.is_leaving() {
            return;
        }
        let Some(plugin) = self.plugin.take() else {
            return;
        };
        let is_over = match self.ask_for_plugin().await {
            Some(Said::NotWanted) => true,
            // It had the right, and has lost it.
            Some(Said::Forbidden) => plugin.said == Some(Said::Wanted),
            Some(Said::Wanted | Said::Unknown(_)) | None => false,
        };
        if !is_over {
            return;
        }
        match plugin.keeper.leave() {
            Ok(from) => tracing::info!(?from, "uninstalled: network plug-in taken out"),
            Err(error) => tracing::error!(
                %error,
                "uninstalled, but the network plug-in's entry stays and holds up every pod: take it out by hand"
            ),
        }
    }

    async fn ask_for_plugin(&self) -> Option<Said> {
        let config = self.config.borrow().clone();
        let cluster = config.kubernetes.as_ref()?;
        let daemonset = cluster.daemonset.as_ref()?;
        Some(kubernetes::plugin(cluster, daemonset).await)
    }
}
