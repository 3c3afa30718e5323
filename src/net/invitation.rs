//! The join string: all that a joiner needs, in one word that survives a URL, a shell and a chat.
//!
//! `hm1.director.<base64url>`. The payload is its own length, what [`JoinString`] holds, and a checksum over role and
//! payload, so that a copy that lost its end says so, and a copy with a wrong letter is refused before anything is dialed.

use super::authority::{AuthorityError, KeyHash, random, sha256};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hamesh_raft::codec;
use hamesh_raft::command::{InvitationId, Role};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

/// A join string taken apart. It holds the invitation's secret: whoever has it may join, once, until it expires.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinString {
    /// What it admits.
    pub role: Role,
    /// Members to ask, in this order.
    pub addresses: Vec<SocketAddr>,
    /// SHA-256 of the CA's public key: whoever answers must prove to belong to it.
    pub pin: KeyHash,
    /// The invitation's public name.
    pub invitation: InvitationId,
    /// What proves that the bearer was invited. The cluster stores only its hash.
    pub secret: [u8; 16],
}

/// Why a word is not a join string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinStringError {
    /// Something else.
    #[error("not a join string: it begins with `hm1.`, as `hamesh token` prints it")]
    NotAJoinString,
    /// Made by a program that is newer than this one.
    #[error("the join string begins with `{0}`: it was made by a newer hamesh, this one reads `hm1`")]
    Newer(String),
    /// The second part.
    #[error("the join string is damaged: the role `{0}` is neither `director` nor `witness`; copy it again")]
    Role(String),
    /// A character that does not occur.
    #[error("the join string is damaged: the character {found:?} at position {at} does not belong in it; copy it again")]
    Character {
        /// Which.
        found: char,
        /// Counted from 1.
        at: usize,
    },
    /// The end is missing.
    #[error("the join string is cut off: {missing} characters are missing at its end; copy it again, whole")]
    Truncated {
        /// About how many characters.
        missing: usize,
    },
    /// Some character is another one.
    #[error("the join string is damaged: its checksum does not fit; copy it again")]
    Checksum,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    addresses: Vec<SocketAddr>,
    pin: KeyHash,
    invitation: InvitationId,
    secret: [u8; 16],
}

const PREFIX: &str = "hm1";
const LIMIT: usize = 4096;
const CHECKSUM: usize = 4;

/// A cut copy ends in the middle of a byte, which the strict decoder would call an invalid character.
const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

impl JoinString {
    /// A new invitation, with a random name and secret.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn invite(role: Role, addresses: Vec<SocketAddr>, pin: KeyHash) -> Result<Self, AuthorityError> {
        let invitation = InvitationId(u64::from_be_bytes(random()?));
        Ok(Self { role, addresses, pin, invitation, secret: random()? })
    }

    /// What the cluster stores of the secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// The word.
    pub fn encode(&self) -> String {
        let payload = codec::encode(&Payload {
            addresses: self.addresses.clone(),
            pin: self.pin,
            invitation: self.invitation,
            secret: self.secret,
        });
        let mut bytes = u16::try_from(payload.len()).unwrap_or(u16::MAX).to_be_bytes().to_vec();
        bytes.extend(payload);
        let check = checksum(self.role, &bytes);
        bytes.extend(check);
        format!("{PREFIX}.{}.{}", self.role, ENGINE.encode(bytes))
    }

    /// Reads the word. Blanks around it do not matter.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, JoinStringError> {
        let text = text.trim();
        let mut parts = text.splitn(3, '.');
        let prefix = parts.next().unwrap_or_default();
        if prefix != PREFIX {
            let newer = prefix.strip_prefix("hm").is_some_and(|rest| rest.parse::<u32>().is_ok_and(|version| version > 1));
            return Err(if newer { JoinStringError::Newer(prefix.into()) } else { JoinStringError::NotAJoinString });
        }
        let role = match parts.next().unwrap_or_default() {
            "director" => Role::Director,
            "witness" => Role::Witness,
            other => return Err(JoinStringError::Role(other.into())),
        };
        let body = parts.next().unwrap_or_default();
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if let Some((at, found)) = text.char_indices().skip(text.len() - body.len()).find(|(_, c)| !known(*c)) {
            return Err(JoinStringError::Character { found, at: at + 1 });
        }
        // One character beyond whole bytes and groups says nothing; a cut can leave it.
        let whole = if body.len() % 4 == 1 { body.get(..body.len() - 1).unwrap_or_default() } else { body };
        let bytes = ENGINE.decode(whole).map_err(|_| JoinStringError::Checksum)?;
        let Some((length, rest)) = bytes.split_first_chunk::<2>() else {
            return Err(JoinStringError::Truncated { missing: 1 });
        };
        let wanted = usize::from(u16::from_be_bytes(*length)) + CHECKSUM;
        if wanted <= LIMIT && rest.len() < wanted {
            let full = ((wanted + 2) * 4).div_ceil(3);
            return Err(JoinStringError::Truncated { missing: full.saturating_sub(body.len()) });
        }
        let (payload, check) = bytes.split_last_chunk::<CHECKSUM>().ok_or(JoinStringError::Checksum)?;
        // Encoding again finds spare bits that the lenient decoder let pass.
        if rest.len() != wanted || checksum(role, payload) != *check || ENGINE.encode(&bytes) != body {
            return Err(JoinStringError::Checksum);
        }
        let Payload { addresses, pin, invitation, secret } =
            codec::decode(payload.get(2..).unwrap_or_default(), LIMIT).map_err(|_| JoinStringError::Checksum)?;
        Ok(Self { role, addresses, pin, invitation, secret })
    }
}

fn checksum(role: Role, bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut all = format!("{PREFIX}.{role}.").into_bytes();
    all.extend(bytes);
    let [a, b, c, d, ..] = sha256(&all);
    [a, b, c, d]
}

impl fmt::Debug for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinString")
            .field("role", &self.role)
            .field("addresses", &self.addresses)
            .field("invitation", &self.invitation)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> JoinString {
        let addresses = vec!["10.0.0.11:7112".parse().unwrap(), "[2001:db8::11]:7112".parse().unwrap()];
        JoinString { role: Role::Director, addresses, pin: [7; 32], invitation: InvitationId(u64::MAX - 3), secret: [9; 16] }
    }

    #[test]
    fn a_join_string_comes_back_whole_and_is_one_url_safe_word() {
        let word = sample().encode();
        println!("{} characters: {word}", word.len());
        assert!(word.starts_with("hm1.director."));
        assert!(word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)));
        assert_eq!(JoinString::parse(&format!(" {word}\n")).unwrap(), sample());
    }

    #[test]
    fn any_other_character_anywhere_is_refused() {
        let word = sample().encode();
        for at in 0..word.len() {
            for other in ('0'..='9').chain('a'..='z').chain('A'..='Z').chain(['-', '_', '.', '?']) {
                let mut copy: Vec<char> = word.chars().collect();
                if copy[at] != other {
                    copy[at] = other;
                    let copy: String = copy.into_iter().collect();
                    assert!(JoinString::parse(&copy).is_err(), "{copy}");
                }
            }
        }
    }

    #[test]
    fn a_copy_that_lost_its_end_says_how_much() {
        let word = sample().encode();
        for kept in "hm1.director.".len() + 3..word.len() {
            match JoinString::parse(&word[..kept]) {
                Err(JoinStringError::Truncated { missing }) => assert_eq!(missing, word.len() - kept),
                other => panic!("{kept}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let says = |text: &str| JoinString::parse(text).unwrap_err().to_string();
        assert!(says("K10abc::server:def").contains("begins with `hm1.`"));
        assert!(says("hm2.director.AAAA").contains("newer hamesh"));
        assert!(says("hm1.observer.AAAA").contains("neither `director` nor `witness`"));
        assert!(says("hm1.witness.AA?A").contains("'?' at position 15"));
        let swapped = sample().encode().replace("director", "witness");
        assert!(says(&swapped).contains("checksum"), "the role is part of it");
        assert!(!format!("{:?}", sample()).contains('9'), "the secret is not printed");
    }
}
