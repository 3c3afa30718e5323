//! Where log lines go. A thread of its own writes them, so that a reader that does not read holds up nobody: the lane
//! logs too, and a renewal must not wait for a pipe.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

/// Lines that wait for the reader. What comes beyond is counted and dropped.
const QUEUE: usize = 4096;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_millis(200);

enum Entry {
    Line(Vec<u8>),
    /// Answered when all before it is written.
    Mark(SyncSender<()>),
}

/// The near end. Each write is one whole line and never waits.
#[derive(Clone)]
pub(super) struct Sink {
    queue: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    /// # Errors
    /// The system gives no thread.
    pub(super) fn to(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let missed = dropped.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || write(sink, &entries, &missed))?;
        Ok(Self { queue, dropped })
    }

    /// Waits until what was logged is written, but not for long.
    pub(super) fn flush(&self) {
        let (mark, written) = sync_channel(1);
        if self.queue.try_send(Entry::Mark(mark)).is_ok() {
            // A reader that still does not read loses the rest.
            written.recv_timeout(LAST_LINES).ok();
        }
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Entry::Line(line.to_vec())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(mut sink: impl Write, entries: &Receiver<Entry>, dropped: &AtomicU64) {
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                let missed = dropped.swap(0, Ordering::Relaxed);
                if missed > 0 {
                    let said = format!("{missed} lines were not logged: the log was not read in time\n");
                    sink.write_all(said.as_bytes()).ok();
                }
                // There is nowhere else to say it.
                sink.write_all(&line).ok();
            }
            Entry::Mark(mark) => drop(mark.send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// A pipe whose reader takes a line when it is told to.
    struct Pipe {
        turns: Receiver<()>,
        read: Sender<String>,
    }

    impl Write for Pipe {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.turns.recv().map_err(io::Error::other)?;
            self.read.send(String::from_utf8_lossy(line).into_owned()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody_and_hears_what_it_missed() {
        let ((turn, turns), (read, lines)) = (channel(), channel());
        let mut log = Sink::to(Pipe { turns, read }).unwrap();
        for n in 0..QUEUE * 2 {
            log.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        log.flush();
        for _ in 0..QUEUE * 2 {
            turn.send(()).unwrap();
        }
        drop(log);
        let heard: Vec<String> = lines.iter().collect();
        assert!(heard.contains(&"line 0\n".to_owned()));
        assert!(heard.iter().any(|line| line.contains("lines were not logged")), "{} lines", heard.len());
        assert!(heard.len() <= QUEUE + 3);
    }

    #[test]
    fn the_last_lines_are_written_before_the_end() {
        let ((turn, turns), (read, lines)) = (channel(), channel());
        turn.send(()).unwrap();
        let mut log = Sink::to(Pipe { turns, read }).unwrap();
        log.write_all(b"stopping\n").unwrap();
        log.flush();
        assert_eq!(lines.try_recv().unwrap(), "stopping\n");
    }
}
