//! The one codec for wire and disk.
//!
//! A version byte, then bincode with variable-length integers. The version byte is outside bincode, which has no field
//! names and would read an older layout as nonsense. Decoding is from slices only, within a limit, to the last byte:
//! a length written by a hostile or broken peer allocates nothing.
//!
//! Two builds run together as long as their version bytes are the same. So, between two releases:
//! - an enum that is encoded only gets variants at its end, and a struct nothing at all: bincode has no names to go by;
//! - a new variant is answered with "malformed" by a build that does not know it. A question may be asked of anybody, and is asked
//!   of another one then. A [`Command`](crate::command::Command) may not: a voter that cannot read an entry cannot append it. It is
//!   proposed only when every member's gossip says a version that has it, so one release reads what the next one writes;
//! - anything else is a new version byte. Such builds refuse each other's hellos, requests and files in words, keep nothing of them,
//!   and the whole cluster is stopped for the upgrade.

use bincode::{DefaultOptions, ErrorKind, Options};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The layout that this build writes, and the only one it reads.
pub const VERSION: u8 = 3;

/// Why bytes are not a value.
#[derive(Debug, Error)]
pub enum DecodeError {
    /// Not even a version byte.
    #[error("no bytes at all")]
    Empty,
    /// Written by another version of hamesh.
    #[error("layout version {found}, this hamesh reads {VERSION}")]
    Version {
        /// The version byte.
        found: u8,
    },
    /// More than the reader wants.
    #[error("{length} bytes, or a length inside that says so; the limit is {limit}")]
    TooLong {
        /// Of the bytes, version included.
        length: usize,
        /// The reader's.
        limit: usize,
    },
    /// The right version and no such value.
    #[error("malformed: {0}")]
    Malformed(Box<ErrorKind>),
}

/// Encodes `value`.
///
/// # Panics
/// If `T`'s own `Serialize` fails or it holds a sequence of unknown length. That is a fault of the type and not of the
/// value: the first test that encodes the type finds it. Memory is the only other thing that could run out.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    DefaultOptions::new().serialize_into(&mut bytes, value).expect("a Vec takes every byte of a serializable type");
    bytes
}

/// Decodes one value that fills `bytes` to the end.
///
/// # Errors
/// When the version is another, `bytes` is longer than `limit` or claims to be, or it is not exactly one `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, DecodeError> {
    let (&found, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if found != VERSION {
        return Err(DecodeError::Version { found });
    }
    let length = bytes.len();
    if length > limit {
        return Err(DecodeError::TooLong { length, limit });
    }
    let options = DefaultOptions::new().with_limit(body.len() as u64).reject_trailing_bytes();
    options.deserialize(body).map_err(|error| match *error {
        ErrorKind::SizeLimit => DecodeError::TooLong { length, limit },
        ErrorKind::Io(_)
        | ErrorKind::InvalidUtf8Encoding(_)
        | ErrorKind::InvalidBoolEncoding(_)
        | ErrorKind::InvalidCharEncoding
        | ErrorKind::InvalidTagEncoding(_)
        | ErrorKind::DeserializeAnyNotSupported
        | ErrorKind::SequenceMustHaveLength
        | ErrorKind::Custom(_) => DecodeError::Malformed(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, Definition, Family, GateId, Sid};
    use proptest::prelude::*;

    type Shape = (String, Vec<(u64, Option<Vec<u8>>)>);

    fn sample() -> Command {
        Command::Candidate {
            sid: Sid(7),
            group: "web".into(),
            definition: Definition { family: Family::V4, vrid: 51, addresses: vec![[203, 0, 113, 10].into()] },
            priority: 200,
            preempt: true,
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_again() {
        let bytes = encode(&sample());
        assert_eq!(bytes[0], VERSION);
        assert_eq!(decode::<Command>(&bytes, bytes.len()).unwrap(), sample());
        let widest = GateId(u128::MAX);
        assert_eq!(decode::<GateId>(&encode(&widest), 64).unwrap(), widest);
    }

    #[test]
    fn another_version_is_named_in_the_error() {
        let mut bytes = encode(&sample());
        bytes[0] = 9;
        assert!(matches!(decode::<Command>(&bytes, 1024), Err(DecodeError::Version { found: 9 })));
        assert!(matches!(decode::<Command>(&[], 1024), Err(DecodeError::Empty)));
    }

    #[test]
    fn a_byte_too_many_or_too_few_is_refused() {
        let mut bytes = encode(&sample());
        bytes.push(0);
        let error = decode::<Command>(&bytes, 1024).unwrap_err();
        assert!(error.to_string().contains("remaining"), "{error}");
        bytes.truncate(bytes.len() - 2);
        assert!(decode::<Command>(&bytes, 1024).is_err());
    }

    #[test]
    fn a_hostile_length_is_refused_without_allocating_it() {
        let mut bytes = vec![VERSION, 253]; // 253: eight bytes of length follow
        bytes.extend((1u64 << 40).to_le_bytes());
        for error in [decode::<String>(&bytes, 1024).unwrap_err(), decode::<Vec<u8>>(&bytes, 1024).unwrap_err()] {
            assert!(matches!(error, DecodeError::TooLong { .. } | DecodeError::Malformed(_)), "{error}");
        }
    }

    #[test]
    fn more_bytes_than_the_limit_are_not_looked_at() {
        let bytes = encode(&"x".repeat(100));
        let error = decode::<String>(&bytes, 50).unwrap_err();
        assert!(matches!(error, DecodeError::TooLong { length: 102, limit: 50 }), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_value_or_an_error(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            if let Ok(value) = decode::<Shape>(&bytes, 1024) {
                prop_assert_eq!(decode::<Shape>(&encode(&value), 1024).unwrap(), value);
            }
        }
    }
}
