//! Bounded messages on QUIC streams: `[kind u8][length u32, big endian][payload]`.
//!
//! The length is checked against the kind's limit before anything is reserved for it.

use quinn::{RecvStream, SendStream, VarInt};

/// What a message between members is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Raft's messages, except snapshots.
    Raft,
    /// A piece of a Raft snapshot.
    Snapshot,
    /// A command for the leader.
    Request,
    /// A question to a node about itself.
    Ask,
    /// Gossip.
    Gossip,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Raft, Self::Snapshot, Self::Request, Self::Ask, Self::Gossip];

    /// The byte on the wire.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Raft => 16,
            Self::Snapshot => 17,
            Self::Request => 18,
            Self::Ask => 19,
            Self::Gossip => 20,
        }
    }

    /// The longest body, in bytes, there and back.
    pub const fn limit(self) -> usize {
        match self {
            Self::Raft | Self::Snapshot | Self::Ask => 4 << 20,
            Self::Request => 1 << 20,
            Self::Gossip => 1 << 16,
        }
    }

    /// Which stream goes first when a connection cannot send everything at once.
    pub const fn priority(self) -> i32 {
        match self {
            Self::Raft => 10,
            Self::Request | Self::Ask => 0,
            Self::Gossip => -10,
            Self::Snapshot => -20,
        }
    }

    /// The kind of a byte on the wire.
    ///
    /// # Errors
    /// No such kind.
    pub fn of(byte: u8) -> Result<Self, FrameError> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte).ok_or(FrameError::Kind(byte))
    }
}

/// Why a message was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than its kind may be.
    #[error("a message of {len} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes.
        len: usize,
        /// Bytes.
        limit: usize,
    },
    /// A kind that does not belong here.
    #[error("unexpected message kind {0}")]
    Kind(u8),
    /// The stream ended or failed.
    #[error(transparent)]
    Read(#[from] quinn::ReadExactError),
    /// The stream failed.
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
}

/// The code that a stream is stopped with when its message is refused.
pub(super) const STOP: VarInt = VarInt::from_u32(2);

/// Writes one message. The stream stays open.
pub(super) async fn write(send: &mut SendStream, kind: u8, body: &[u8]) -> Result<(), FrameError> {
    let len = u32::try_from(body.len())
        .map_err(|_| FrameError::TooLong { len: body.len(), limit: usize::try_from(u32::MAX).unwrap_or(usize::MAX) })?;
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&len.to_be_bytes());
    send.write_all(&head).await?;
    send.write_all(body).await?;
    Ok(())
}

/// Reads one message of at most what `limit` says for its kind, and stops the stream of one that is refused.
pub(super) async fn read(
    recv: &mut RecvStream,
    limit: impl Fn(u8) -> Result<usize, FrameError>,
) -> Result<(u8, Vec<u8>), FrameError> {
    let mut head = [0; 5];
    recv.read_exact(&mut head).await?;
    let [kind, length @ ..] = head;
    let len = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let checked = limit(kind).and_then(|limit| if len > limit { Err(FrameError::TooLong { len, limit }) } else { Ok(()) });
    if let Err(error) = checked {
        // An error here means that the stream is over already.
        recv.stop(STOP).ok();
        return Err(error);
    }
    let mut body = vec![0; len];
    recv.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// Ends a stream after what was written. Fails only when it is over already.
pub(super) fn finish(send: &mut SendStream) {
    send.finish().ok();
}
