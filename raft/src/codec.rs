//! The one place that turns values into bytes for disk and wire, and back.
//!
//! A version byte, then bincode 1.3.3 with variable-length integers. Decoding reads a slice, never a stream (a reader
//! would reserve whatever a length prefix promises), stops at a limit and refuses bytes that are left over.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version of the encoding. A value of another version is refused, not guessed at.
const VERSION: u8 = 1;

/// Why bytes are not the value they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the reader allows.
    #[error("{len} bytes, the limit is {limit}")]
    TooLong {
        /// Bytes.
        len: usize,
        /// Bytes.
        limit: usize,
    },
    /// Written by another version of the codec.
    #[error("encoding version {0:?}, this program reads {VERSION}")]
    Version(Option<u8>),
    /// Not a value of this type.
    #[error("malformed: {0}")]
    Malformed(#[from] bincode::Error),
}

/// Encodes a value.
///
/// # Panics
/// If the type cannot be encoded at all: a fault in the program, not in the data.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    options().serialize_into(&mut bytes, value).expect("plain data encodes");
    bytes
}

/// Decodes a value from at most `limit` bytes.
///
/// # Errors
/// Too long, another version, malformed, or bytes left over.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    if bytes.len() > limit {
        return Err(DecodeError::TooLong { len: bytes.len(), limit });
    }
    match bytes.split_first() {
        Some((&VERSION, rest)) => {
            Ok(options().with_limit(u64::try_from(limit).unwrap_or(u64::MAX)).deserialize(rest)?)
        }
        other => Err(DecodeError::Version(other.map(|(version, _)| *version))),
    }
}

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_varint_encoding().reject_trailing_bytes()
}
