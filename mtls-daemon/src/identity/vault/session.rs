//! Our login at a Vault, kept alive: the token's lease is renewed when half of
//! it is over, and when it cannot be renewed we log in again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::client::{CallError, Client, Secret};
use super::explain;
use crate::config::{Login, Vault};
use crate::identity::pace::Pace;

/// Where the present token is to be had.
#[derive(Clone)]
pub(super) struct Session {
    state: watch::Receiver<State>,
    /// Told when the server does not know the token any more, and when one is
    /// wanted while there is none.
    refused: Arc<Notify>,
    /// Whoever keeps it may have replaced it a moment ago.
    token_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Pending,
    Token(Secret),
    Failed(String),
}

/// A token, and for how long it is good.
struct Lease {
    token: Secret,
    /// `None`: for good.
    duration: Option<Duration>,
    renewable: bool,
}

/// A token that is never renewed is looked at this often.
const LOOK: Duration = Duration::from_secs(60);
/// A renewal that grants less than this part of the first lease nears the
/// token's last end.
const DWINDLED: u32 = 4;

impl Session {
    /// Logs in, and stays so until nobody needs it.
    pub(super) fn start(client: Arc<Client>, config: &Vault, pace: Pace) -> Self {
        let (sender, state) = watch::channel(State::default());
        let refused = Arc::new(Notify::new());
        let keeper = Keeper {
            client,
            login: config.login.clone(),
            pace,
            refused: Arc::clone(&refused),
            sender,
        };
        tokio::spawn(keeper.keep());
        Self {
            state,
            refused,
            token_file: match &config.login {
                Login::TokenFile(file) => Some(file.clone()),
                Login::AppRole { .. } | Login::Account { .. } => None,
            },
        }
    }

    /// A token to ask with, or why there is none.
    pub(super) async fn token(&mut self) -> Result<Secret, String> {
        if let Some(file) = &self.token_file {
            return Secret::read(file).await;
        }
        if matches!(*self.state.borrow_and_update(), State::Failed(_)) {
            // Whoever asks has waited long enough: no second wait on top.
            self.refused.notify_one();
            let _ = self.state.changed().await;
        }
        let known = |state: &State| !matches!(state, State::Pending);
        match self.state.wait_for(known).await.as_deref() {
            Ok(State::Token(token)) => Ok(token.clone()),
            Ok(State::Failed(problem)) => Err(problem.clone()),
            Ok(State::Pending) | Err(_) => Err("its login is no longer kept".to_owned()),
        }
    }

    /// The token was refused: it may have ended early.
    pub(super) fn refused(&self) {
        self.refused.notify_one();
    }
}

struct Keeper {
    client: Arc<Client>,
    login: Login,
    pace: Pace,
    refused: Arc<Notify>,
    sender: watch::Sender<State>,
}

impl Keeper {
    async fn keep(self) {
        let sender = self.sender.clone();
        tokio::select! {
            () = self.log_in_again_and_again() => {}
            () = sender.closed() => {}
        }
    }

    async fn log_in_again_and_again(&self) {
        let mut failures = 0;
        loop {
            match self.log_in().await {
                Ok(lease) => {
                    failures = 0;
                    self.sender.send_replace(State::Token(lease.token.clone()));
                    self.keep_alive(lease).await;
                }
                Err(problem) => {
                    failures += 1;
                    tracing::warn!(server = %self.client.url(), "logging in failed: {problem}");
                    self.sender.send_replace(State::Failed(problem));
                    let wanted = async {
                        sleep(self.pace.backoff(1)).await;
                        self.refused.notified().await;
                    };
                    tokio::select! {
                        () = sleep(self.pace.backoff(failures)) => {}
                        () = wanted => {}
                    }
                }
            }
        }
    }

    async fn log_in(&self) -> Result<Lease, String> {
        match &self.login {
            Login::TokenFile(file) => self.look_up(file).await,
            Login::AppRole {
                mount,
                role_id,
                secret_id_file,
            } => {
                let secret_id = Secret::read(secret_id_file).await?;
                let body = json!({ "role_id": role_id, "secret_id": secret_id.expose() });
                let answer = self.show(mount, &body).await;
                let explained = |e| explain::app_role(&e, self.client.url(), mount, secret_id_file);
                leased(&answer.map_err(explained)?)
            }
            Login::Account {
                mount,
                role,
                token_file,
            } => {
                let token = Secret::read(token_file).await?;
                let body = json!({ "role": role, "jwt": token.expose() });
                let answer = self.show(mount, &body).await;
                let explained = |e| {
                    let (server, file) = (self.client.url(), token_file);
                    explain::account(&e, server, [mount, role], file)
                };
                leased(&answer.map_err(explained)?)
            }
        }
    }

    /// Asks an auth method to let us in.
    async fn show(&self, mount: &str, body: &Value) -> Result<Value, CallError> {
        let path = format!("auth/{mount}/login");
        self.client.post(&path, None, body).await
    }

    async fn look_up(&self, file: &Path) -> Result<Lease, String> {
        let token = Secret::read(file).await?;
        let answer = self.client.get("auth/token/lookup-self", &token).await;
        let answer = answer.map_err(|e| explain::token(&e, self.client.url(), file))?;
        let about = &answer["data"];
        Ok(Lease {
            token,
            duration: seconds(&about["ttl"]),
            renewable: about["renewable"].as_bool().unwrap_or(false),
        })
    }

    /// Returns when it is time to log in again.
    async fn keep_alive(&self, first: Lease) {
        let mut lease = first;
        let whole = lease.duration;
        let mut failures = 0;
        let mut ends = lease.duration.map(|left| Instant::now() + left);
        loop {
            let wait = match (lease.duration, failures) {
                (None, _) => LOOK,
                (Some(left), 0) => left / 2,
                (Some(_), failures) => self.pace.backoff(failures),
            };
            let soon = Instant::now() + wait;
            let until = ends.unwrap_or(soon).min(soon);
            if timeout_at(until, self.refused.notified()).await.is_ok() {
                if self.is_known(&lease.token).await {
                    continue;
                }
                // Not at once again, should the new token fare no better.
                sleep(self.pace.backoff(1)).await;
                return;
            }
            if lease.duration.is_none() {
                match self.login {
                    // Whoever keeps it may have replaced it.
                    Login::TokenFile(_) => return,
                    Login::AppRole { .. } | Login::Account { .. } => continue,
                }
            }
            if !lease.renewable || ends.is_some_and(|ends| ends <= Instant::now()) {
                return;
            }
            match self.renew(&lease.token).await {
                Ok(renewed) => {
                    failures = 0;
                    let left = renewed.unwrap_or_default();
                    ends = Some(Instant::now() + left);
                    lease.duration = Some(left);
                    if left < whole.unwrap_or_default() / DWINDLED {
                        return;
                    }
                }
                Err(CallError::Refused { status, .. }) if status.is_client_error() => return,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(server = %self.client.url(), "renewing the login failed: {error}");
                }
            }
        }
    }

    /// Whether the server still knows a token that it refused: if so, it is
    /// its policy that falls short, and a new login would be no better.
    async fn is_known(&self, token: &Secret) -> bool {
        let answer = self.client.get("auth/token/lookup-self", token).await;
        !matches!(answer, Err(CallError::Refused { status, .. }) if status.is_client_error())
    }

    async fn renew(&self, token: &Secret) -> Result<Option<Duration>, CallError> {
        let path = "auth/token/renew-self";
        let answer = self.client.post(path, Some(token), &json!({})).await?;
        tracing::debug!(server = %self.client.url(), "the login's lease is renewed");
        Ok(seconds(&answer["auth"]["lease_duration"]))
    }
}

fn leased(answer: &Value) -> Result<Lease, String> {
    lease(answer).ok_or_else(|| "the server's answer to the login has no token".to_owned())
}

fn lease(answer: &Value) -> Option<Lease> {
    let auth = &answer["auth"];
    Some(Lease {
        token: Secret::new(auth["client_token"].as_str()?),
        duration: seconds(&auth["lease_duration"]),
        renewable: auth["renewable"].as_bool().unwrap_or(false),
    })
}

/// 0 stands for no end.
fn seconds(value: &Value) -> Option<Duration> {
    match value.as_u64() {
        None | Some(0) => None,
        Some(seconds) => Some(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_from_a_login() {
        let read = |text: &str| lease(&serde_json::from_str(text).unwrap());
        let found =
            read(r#"{"auth": {"client_token": "s.1", "lease_duration": 1200, "renewable": true}}"#)
                .unwrap();
        assert_eq!(found.token.expose(), "s.1");
        assert_eq!(found.duration, Some(Duration::from_secs(1200)));
        assert!(found.renewable);
        let root = read(r#"{"auth": {"client_token": "s.1", "lease_duration": 0}}"#).unwrap();
        assert_eq!((root.duration, root.renewable), (None, false));
        assert!(read(r#"{"auth": null}"#).is_none());
    }
}
