//! Frames in a file that tshark and its kin read: pcap in its oldest form, of Ethernet.

use super::frame::Kind;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::SystemTime;

/// The longest frame there is.
const LONGEST: u32 = 65_535;
const ETHERNET: u32 = 1;

/// A capture.
#[derive(Debug)]
pub struct Capture {
    kind: Kind,
    file: BufWriter<File>,
}

impl Capture {
    /// Begins one of frames of this kind.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, kind: Kind) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        // Magic, version 2.4, no time zone, no accuracy.
        for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, LONGEST, ETHERNET] {
            file.write_all(&u32::to_le_bytes(word))?;
        }
        Ok(Self { kind, file })
    }

    /// Notes a frame, if it is of the kind.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note(&mut self, frame: &[u8]) -> io::Result<()> {
        if !self.kind.matches(frame) {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, length) =
            (u32::try_from(now.as_secs()).unwrap_or(u32::MAX), u32::try_from(frame.len()).unwrap_or(LONGEST));
        for word in [seconds, now.subsec_micros(), length, length] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(frame)
    }

    /// Ends it.
    ///
    /// # Errors
    /// Something of it was not written.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }
}
