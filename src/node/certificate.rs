//! A node's own certificate: it ends, and is renewed while the node is a member.
//!
//! When a third of its life is left the node asks for another one for the same key, again and again until it has one. A voter has
//! the CA's key and signs for itself, also at a start when it is too late to ask anybody. What a certificate proves is a name;
//! whether the name is a member's, the replicated state says, so a removed node gains nothing by one.

use super::core::{Core, lock};
use super::requests::{Reply, Request};
use crate::net::authority::{Authority, AuthorityError, LIFETIME, ends_at, request_key_hash};
use crate::net::hello::wall_now;
use crate::net::identity::Identity;
use hamesh_raft::command::{NodeId, WallTime};
use rustls_pki_types::CertificateDer;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// What is left of a certificate when it is to be renewed.
const RENEW: Duration = LIFETIME.checked_div(3).expect("three is not zero");
/// Between two looks at what is left, and two tries.
const LOOK: Duration = Duration::from_secs(5);
/// An answer takes a signature.
const ANSWER: Duration = Duration::from_secs(2);
/// A certificate with less left than this is warned of: for years nobody has renewed it.
const WARN: Duration = Duration::from_secs(30 * DAY);
/// The CA's is not renewed: there is a year to make a new cluster.
const WARN_CA: Duration = Duration::from_secs(365 * DAY);
const DAY: u64 = 24 * 3600;

/// Renews the certificate of a voter that was off until it was nearly over, or longer.
pub(crate) fn renew_at_start(identity: &Identity, data_dir: &Path) {
    let Some(authority) = identity.authority.as_deref().filter(|_| is_due(identity, wall_now())) else { return };
    if let Err(error) = sign_own(identity, authority, data_dir) {
        tracing::error!(%error, "the certificate was not renewed");
    }
}

/// Renews the certificate whenever it is due.
pub(crate) async fn keep(core: Arc<Core>) {
    loop {
        if is_due(&core.identity, wall_now())
            && let Err(error) = renew(&core).await
        {
            tracing::warn!(error, "the certificate was not renewed; trying again");
        }
        sleep(LOOK).await;
    }
}

/// What to say of certificates that end.
pub(crate) fn warnings(identity: &Identity, now: WallTime) -> Vec<String> {
    let left = |certificate: &CertificateDer<'_>, least: Duration| {
        let ends = ends_at(certificate).unwrap_or_default();
        (ends < now + least).then(|| match ends.checked_sub(now) {
            Some(left) => format!("ends in {} d {} h", left.as_secs() / DAY, left.as_secs() % DAY / 3600),
            None => format!("ended {} d ago", (now - ends).as_secs() / DAY),
        })
    };
    let own = left(&identity.certificate.get(), WARN).map(|when| {
        format!(
            "this node's certificate {when}: others refuse it then. It is renewed by any voter that is reached: look at the log here. \
             If it is too late, `hamesh node remove` this node and `hamesh join` anew"
        )
    });
    let ca = left(&identity.ca, WARN_CA).map(|when| {
        format!("the certificate of the cluster's CA {when}: found a new cluster before, and move the nodes there")
    });
    own.into_iter().chain(ca).collect()
}

fn is_due(identity: &Identity, now: WallTime) -> bool {
    ends_at(&identity.certificate.get()).is_ok_and(|ends| ends < now + RENEW)
}

fn sign_own(identity: &Identity, authority: &Authority, data_dir: &Path) -> anyhow::Result<()> {
    identity.renew(data_dir, authority.sign_own(&identity.key, identity.record.id, wall_now())?)?;
    tracing::info!("the certificate is renewed, by this voter itself");
    Ok(())
}

async fn renew(core: &Core) -> Result<(), String> {
    let data_dir = core.config().node.data_dir.clone();
    let authority = lock(&core.authority).clone();
    if let Some(authority) = authority {
        return sign_own(&core.identity, &authority, &data_dir).map_err(|error| error.to_string());
    }
    let request = core.identity.key.request().map(Request::Certificate).map_err(|error| error.to_string())?;
    let mut trouble = "this node knows no voter".to_owned();
    let voters = core.raft.view().borrow().membership.voters();
    for voter in voters {
        match core.ask(voter, &request, ANSWER).await {
            Ok(Reply::Certificate(certificate)) => {
                core.identity.renew(&data_dir, CertificateDer::from(certificate)).map_err(|error| error.to_string())?;
                tracing::info!(by = %voter, "the certificate is renewed");
                return Ok(());
            }
            Ok(Reply::Failed(why)) | Err(why) => trouble = why,
            Ok(
                Reply::Applied(..)
                | Reply::NotLeader(_)
                | Reply::Noted
                | Reply::AuthorityKey(_)
                | Reply::Refused(_)
                | Reply::Members(..),
            ) => "a voter answered something else".clone_into(&mut trouble),
        }
    }
    Err(trouble)
}

impl Core {
    /// A certificate for a member's registered key, and for no other.
    pub(crate) fn certify(&self, member: NodeId, csr: &[u8]) -> Reply {
        let Some(authority) = lock(&self.authority).clone() else {
            return Reply::Failed("this node does not have the CA's key".to_owned());
        };
        let registered = self.state().members.get(&member).map(|known| known.key);
        let sign = || -> Result<Option<CertificateDer<'static>>, AuthorityError> {
            let asked = request_key_hash(csr)?;
            (registered == Some(asked)).then(|| authority.sign(csr, member, wall_now())).transpose()
        };
        match sign() {
            Ok(Some(certificate)) => {
                tracing::info!(node = %member, "renewing its certificate");
                Reply::Certificate(certificate.to_vec())
            }
            Ok(None) => Reply::Failed(format!("{member} is no member with this key")),
            Err(error) => Reply::Failed(error.to_string()),
        }
    }

    /// When the certificates of this node and of the CA end.
    pub(crate) fn certificates(&self) -> [(&'static str, WallTime); 2] {
        let ends = |certificate: &CertificateDer<'_>| ends_at(certificate).unwrap_or_default();
        [("node", ends(&self.identity.certificate.get())), ("ca", ends(&self.identity.ca))]
    }
}
