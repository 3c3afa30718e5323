//! A named pipe that lines are written into. Nobody has to read it: the kernel keeps some 64 KiB of lines, and what does not fit is
//! not waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A FIFO, open.
#[derive(Debug)]
pub struct Fifo {
    path: PathBuf,
    pipe: File,
    lost: u64,
}

impl Fifo {
    /// Makes it where it is not there, for root or `owner` alone, and opens it.
    ///
    /// # Errors
    /// The system's, or there is something else of that name; it names the path.
    pub fn open(path: &Path, owner: Option<u32>) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        match nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)) {
            Ok(()) => std::os::unix::fs::lchown(path, owner, None).map_err(named)?,
            Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(named(error.into())),
        }
        // For reading too: so there is a reader, and a line may wait for another one.
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let pipe = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).map_err(named)?;
        if !pipe.metadata().map_err(named)?.file_type().is_fifo() {
            return Err(named(io::Error::new(ErrorKind::AlreadyExists, "it is no FIFO")));
        }
        Ok(Self { path: path.to_owned(), pipe, lost: 0 })
    }

    /// How many lines were not written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Writes a line, at once or not at all.
    ///
    /// # Errors
    /// In words for people, and how many lines were lost so far.
    pub fn write(&mut self, line: &str) -> Result<(), String> {
        // A line is shorter than PIPE_BUF: the kernel takes the whole of it or nothing.
        self.pipe.write_all(line.as_bytes()).map_err(|error| {
            self.lost += 1;
            let why =
                if error.kind() == ErrorKind::WouldBlock { "nobody reads it".to_owned() } else { error.to_string() };
            format!("{}: {why}; {} lines are lost", self.path.display(), self.lost)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn lines_wait_for_a_reader_and_what_does_not_fit_is_lost_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        let mut fifo = Fifo::open(&path, None).expect("made");
        fifo.write("INSTANCE \"a\" MASTER 100\n").expect("there is room");
        let long = "x".repeat(4000) + "\n";
        let why = (0..1000).find_map(|_| fifo.write(&long).err()).expect("it is full some day");
        assert!(why.contains("nobody reads it; 1 lines are lost"), "{why}");
        let mut again = Fifo::open(&path, None).expect("it is there already");
        let mut first = [0; 24];
        again.pipe.read_exact(&mut first).expect("the first line is kept");
        assert_eq!(&first, b"INSTANCE \"a\" MASTER 100\n");
    }

    #[test]
    fn nothing_else_is_written_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "kept").expect("written");
        let error = Fifo::open(&path, None).expect_err("a regular file");
        assert!(error.to_string().contains("it is no FIFO"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "kept");
    }
}
