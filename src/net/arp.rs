//! ARP on one interface: announcements of VIPs, probes of neighbours, and what is heard.

use super::sys;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::net::Ipv4Addr;
use tokio::io::unix::AsyncFd;

const ETH_P_ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];
/// Ethernet header and ARP for IPv4.
const FRAME: usize = 42;

/// Sends and hears ARP on one interface.
pub struct ArpSocket {
    socket: AsyncFd<Socket>,
    mac: [u8; 6],
}

impl ArpSocket {
    /// Opens the socket; frames go out from `mac`.
    ///
    /// # Errors
    /// No such interface, or no CAP_NET_RAW.
    pub fn open(ifindex: u32, mac: [u8; 6]) -> io::Result<Self> {
        let protocol = Protocol::from(i32::from(ETH_P_ARP.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        socket.bind(&sys::link_address(ifindex, ETH_P_ARP)?)?;
        Ok(Self { socket: sys::register(socket)?, mac })
    }

    /// Tells every host on the LAN that `vip` is here: a gratuitous request in keepalived's form, with a broadcast target.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn announce(&self, vip: Ipv4Addr) -> io::Result<()> {
        self.send(&request(self.mac, vip, BROADCAST, vip))
    }

    /// Asks who has `target`, from our own address `source`.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn probe(&self, source: Ipv4Addr, target: Ipv4Addr) -> io::Result<()> {
        self.send(&request(self.mac, source, [0; 6], target))
    }

    /// The sender of the next ARP frame on the interface, our own frames left out.
    ///
    /// # Errors
    /// The socket is broken.
    pub async fn receive(&self) -> io::Result<Ipv4Addr> {
        let mut buffer = [0; 128];
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| { let mut socket: &Socket = socket.get_ref(); socket.read(&mut buffer) }) {
                Ok(Ok(length)) => {
                    if let Some(sender) = buffer.get(..length).and_then(|frame| self.sender(frame)) {
                        return Ok(sender);
                    }
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::NetworkDown => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }

    fn sender(&self, frame: &[u8]) -> Option<Ipv4Addr> {
        let arp = frame.get(14..FRAME)?;
        let ipv4_over_ethernet = arp.get(..6)? == [0, 1, 8, 0, 6, 4];
        let address: [u8; 4] = arp.get(14..18)?.try_into().ok()?;
        let sender = Ipv4Addr::from(address);
        (ipv4_over_ethernet && arp.get(8..14)? != self.mac && !sender.is_unspecified()).then_some(sender)
    }

    fn send(&self, frame: &[u8; FRAME]) -> io::Result<()> {
        self.socket.get_ref().send(frame).map(|_| ())
    }
}

/// An ARP request to everybody (RFC 826).
fn request(mac: [u8; 6], source: Ipv4Addr, target_mac: [u8; 6], target: Ipv4Addr) -> [u8; FRAME] {
    let parts: [&[u8]; 9] = [
        &BROADCAST,
        &mac,
        &ETH_P_ARP.to_be_bytes(),
        &[0, 1, 8, 0, 6, 4, 0, 1],
        &mac,
        &source.octets(),
        &target_mac,
        &target.octets(),
        &[],
    ];
    let mut frame = [0; FRAME];
    for (slot, byte) in frame.iter_mut().zip(parts.concat()) {
        *slot = byte;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn an_announcement_is_keepaliveds_byte_for_byte() {
        let vip = Ipv4Addr::new(10, 77, 0, 100);
        let frame = request([2, 0, 0, 0, 0, 1], vip, BROADCAST, vip);
        let mut hex = String::new();
        for byte in frame {
            write!(hex, "{byte:02x}").unwrap();
        }
        // Captured from keepalived 2.2.7.
        let golden = "ffffffffffff0200000000010806000108000604000102000000000 10a4d0064ffffffffffff0a4d0064";
        assert_eq!(hex, golden.replace(' ', ""));
    }
}
