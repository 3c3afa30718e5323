//! `notify.startup` and `notify.shutdown`: what is run once, before a director begins and after it has ended.

use super::restart;
use crate::config::Config;
use crate::config::notify::Once;
use crate::probe::script;
use hamesh_fencing::record::RecordFile;

/// Whether a run begins anew: one that goes on with what another had is not to wait, for a lease does not.
pub(super) fn begins(config: &Config) -> bool {
    let record = config.admin.socket.parent().map(|directory| RecordFile::in_directory(directory).read());
    !restart::is_one() && !matches!(record, Some(Ok(Some(_))))
}

/// Runs it, if there is one. Whatever comes of it, the run goes on.
pub(super) async fn run(what: &str, once: Option<&Once>) {
    let Some(Once { command, timeout }) = once else { return };
    tracing::info!(what, command = command.words.join(" "), "running");
    let failed = match script::status(&command.words, command.user.as_deref(), *timeout).await {
        Ok(status) if status.success() => return,
        Ok(status) => status.to_string(),
        Err(why) => why,
    };
    tracing::error!(what, "failed: {failed}");
}
