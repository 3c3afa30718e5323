//! What is static: put there before anything else, put back when somebody takes it away, and removed by a stop.

use crate::config::fixed::{Fixed, Initial};
use crate::kernel::KernelError;
use crate::kernel::address::Addresses;
use crate::kernel::link::{self, Links};
use crate::kernel::routing::Routes;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Writes the numbers that files are to begin with. A group that tracks one goes by what is there then.
pub(super) fn write(fixed: &Fixed) {
    for (path, Initial { number, overwrite }) in &fixed.files {
        let mut how = OpenOptions::new();
        how.write(true);
        // Never through what somebody else has put there in place of a file.
        how.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let how = if *overwrite { how.create(true).truncate(true) } else { how.create_new(true) };
        match how.open(path).and_then(|mut file| writeln!(file, "{number}")) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => tracing::error!(path = %path.display(), %error, "a tracked file is not begun"),
            Ok(()) => {}
        }
    }
}

/// Adds what is not there. Returns what could not be added, in words: an interface may come later.
pub(super) async fn put(fixed: &Fixed, links: &Links, addresses: &Addresses) -> Vec<String> {
    let (mut trouble, mut absent) = (Vec::new(), Vec::new());
    let mut note = |result: Result<(), KernelError>| trouble.extend(result.err().map(|error| error.to_string()));
    for (name, vips) in &fixed.addresses {
        match links.get(name, &[]).await {
            Ok(Some(link)) => note(addresses.keep(&link.interface, vips).await),
            Ok(None) => absent.push(format!("there is no interface {name}")),
            Err(error) => note(Err(error)),
        }
    }
    note(Routes::new(links.clone()).set(&fixed.routing).await);
    [absent, trouble].concat()
}

/// Keeps it there, until it is dropped.
pub(super) async fn keep(fixed: Fixed) {
    if fixed.is_empty() {
        return;
    }
    let (links, addresses) = match link::connect() {
        Ok(both) => both,
        Err(error) => return tracing::error!(%error, "what is static is not kept up"),
    };
    let mut said = Vec::new();
    loop {
        let trouble = put(&fixed, &links, &addresses).await;
        // Once, and again when it has changed.
        if trouble != said {
            for why in &trouble {
                tracing::warn!(why, "static");
            }
            said = trouble;
        }
        sleep(EVERY).await;
    }
}

/// Takes it away again; what was there before stays.
pub(super) async fn remove(fixed: &Fixed) {
    if fixed.is_empty() {
        return;
    }
    let (links, addresses) = match link::connect() {
        Ok(both) => both,
        Err(error) => return tracing::error!(%error, "what is static is not removed"),
    };
    let mut results = vec![Routes::new(links.clone()).remove(&fixed.routing).await];
    for (name, vips) in &fixed.addresses {
        // An interface that is gone has taken them along.
        if let Ok(Some(link)) = links.get(name, &[]).await {
            results.push(addresses.release(&link.interface, vips).await);
        }
    }
    for error in results.into_iter().filter_map(Result::err) {
        tracing::error!(%error, "what is static is not all removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tracked_file_begins_with_its_number_and_another_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("kept"), "9\n").expect("written");
        fs::write(path("lost"), "-77777\n").expect("written");
        symlink(path("kept"), path("link")).expect("a link");
        let file = |name: &str, number, overwrite| (path(name), Initial { number, overwrite });
        let files = [file("new", 0, false), file("kept", 5, false), file("lost", -5, true), file("link", 1, true)];
        write(&Fixed { files: files.into(), ..Fixed::default() });
        let read = |name: &str| fs::read_to_string(path(name)).expect("read");
        assert_eq!([read("new"), read("kept"), read("lost")], ["0\n", "9\n", "-5\n"]);
    }
}
