//! The Internet checksum (RFC 1071) of an advert, in both forms that version 3 routers use over IPv4. Over IPv6 there is one,
//! behind the pseudo-header of RFC 8200 section 8.1.

use super::PROTOCOL;
use std::net::IpAddr;

/// What the checksum of a version 3 advert over IPv4 covers. Version 2 is always plain (RFC 3768 section 5.3.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Form {
    /// The message behind a pseudo-header of addresses, protocol and length: keepalived's default, FRR's too.
    #[default]
    Pseudo,
    /// The message alone: RFC 9568 section 5.2.8, Cisco, Juniper.
    Plain,
}

/// The checksum to put into `message`, whose own checksum field is zero.
pub fn of(form: Form, message: &[u8], source: IpAddr, destination: IpAddr) -> u16 {
    !sum(form, message, source, destination)
}

/// The checksum of another protocol's message behind the same pseudo-header, for what announces VIPs.
pub fn with_pseudo_header(protocol: u8, message: &[u8], source: IpAddr, destination: IpAddr) -> u16 {
    !pseudo(protocol, message, source, destination)
}

/// The form in which the checksum inside `message` is right, `None` if in neither.
pub fn verify(message: &[u8], source: IpAddr, destination: IpAddr) -> Option<Form> {
    let forms: &[Form] = if source.is_ipv4() { &[Form::Pseudo, Form::Plain] } else { &[Form::Pseudo] };
    forms.iter().copied().find(|&form| sum(form, message, source, destination) == u16::MAX)
}

/// Whether the checksum inside `message` is right in the plain form.
pub fn is_plain(message: &[u8]) -> bool {
    words(message).fold(0, add) == u16::MAX
}

fn sum(form: Form, message: &[u8], source: IpAddr, destination: IpAddr) -> u16 {
    match form {
        Form::Plain => words(message).fold(0, add),
        Form::Pseudo => pseudo(PROTOCOL, message, source, destination),
    }
}

fn pseudo(protocol: u8, message: &[u8], source: IpAddr, destination: IpAddr) -> u16 {
    // A message has at most 8 + 16 x 255 bytes. The zeros of either pseudo-header add nothing.
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let body = [u16::from(protocol), length].into_iter().chain(words(message)).fold(0, add);
    [source, destination].iter().fold(body, |sum, end| match end {
        IpAddr::V4(end) => words(&end.octets()).fold(sum, add),
        IpAddr::V6(end) => words(&end.octets()).fold(sum, add),
    })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
}

/// One's complement addition: the carry comes back in below.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hamesh_raft::command::Family;

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let message = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(words(&message).fold(0, add), 0xddf2);
    }

    #[test]
    fn a_sum_of_all_ones_takes_its_carry_without_overflow() {
        assert_eq!(words(&[0xff; 1028]).fold(0, add), 0xffff);
    }

    #[test]
    fn each_form_is_recognised_and_nothing_else() {
        let (a, b) = (IpAddr::from([192, 0, 2, 1]), super::super::group(Family::V4));
        let mut message = vec![0x31, 0x33, 100, 1, 0, 100, 0, 0, 192, 0, 2, 100];
        for form in [Form::Pseudo, Form::Plain] {
            message[6..8].fill(0);
            let right = of(form, &message, a, b).to_be_bytes();
            message[6..8].copy_from_slice(&right);
            assert_eq!(verify(&message, a, b), Some(form));
            message[7] ^= 1;
            assert_eq!(verify(&message, a, b), None);
        }
    }
}
