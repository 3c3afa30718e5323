//! The kernel's watchdog (Documentation/watchdog/watchdog-api.rst): opened, it resets the machine when nobody writes to it for its
//! timeout, which is the driver's (softdog: `soft_margin`, 60 s).
//!
//! It is the last line behind the gate, against what neither the gate nor a process can end: a machine that half hangs.

use hamesh_fencing::clock::Moment;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// Between two meals. The shortest timeout of a driver is a second.
const EVERY: Duration = Duration::from_millis(500);
/// Before it is closed: the next close is no crash (the "magic close").
const MAGIC: &[u8] = b"V";

/// A watchdog that runs. Dropped it goes on: only [`Self::disarm`] ends it.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    fed: Option<Moment>,
    failing: bool,
}

impl Watchdog {
    /// Opens the device, which starts it.
    ///
    /// # Errors
    /// There is none, or another process has it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { device: OpenOptions::new().write(true).open(path)?, fed: None, failing: false })
    }

    /// Says that there is progress. Called as often as one likes.
    pub fn feed(&mut self, now: Moment) {
        if self.fed.is_some_and(|at| now.since(at) < EVERY) {
            return;
        }
        self.fed = Some(now);
        match self.device.write_all(b"\0") {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::error!(%error, "the watchdog is not fed: it will reset this machine");
            }
            Err(_) => {}
        }
    }

    /// Stops it, where the driver lets it be stopped (`nowayout` does not).
    ///
    /// # Errors
    /// It was not told, and goes on.
    pub fn disarm(mut self) -> io::Result<()> {
        self.device.write_all(MAGIC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::default() + Duration::from_millis(millis)
    }

    #[test]
    fn it_is_fed_twice_a_second_and_disarmed_by_a_letter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        std::fs::write(&path, "").unwrap();
        let mut watchdog = Watchdog::open(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"", "opening starts it; there is no progress yet");
        (0..=200).for_each(|tick| watchdog.feed(at(10_000 + tick * 10)));
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0\0\0\0");
        watchdog.disarm().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"\0\0\0\0\0V");
    }

    #[test]
    fn dropped_it_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        std::fs::write(&path, "").unwrap();
        let mut watchdog = Watchdog::open(&path).unwrap();
        watchdog.feed(at(0));
        drop(watchdog);
        assert_eq!(std::fs::read(&path).unwrap(), b"\0", "a crash is no reason to stop it");
    }

    #[test]
    fn a_device_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("watchdog");
        assert_eq!(Watchdog::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!path.exists());
    }
}
