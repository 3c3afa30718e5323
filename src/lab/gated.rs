//! A process that has the gate and holds a VIP, made to be stopped in its lease, and at the other end of its cable a client.

use super::LAN_NIC;
use super::frame::{Arp, BROADCAST, Discovery, Mac};
use super::host::{Netns, link_index};
use crate::kernel::realtime;
use anyhow::{Context, Result, bail, ensure};
use hamesh_fencing::clock::Moment;
use hamesh_fencing::gate::{Devices, Gate, GateError};
use hamesh_raft::command::{Definition, Family, GateId};
use nix::ifaddrs::getifaddrs;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, bind, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use nix::unistd::Pid;
use rtnetlink::{LinkUnspec, LinkVeth};
use socket2::{Domain, Protocol, Socket, Type};
use std::env::{args, current_exe};
use std::io::{BufRead, BufReader, IoSliceMut, Write, stdin};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

/// The first argument of a program that is to call [`be_stopped`].
pub const ARGUMENT: &str = "be-stopped";

/// Who asks.
const CLIENT: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 77, 0, 200), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x200));

/// Has the gate, holds the VIP that is its second argument, and arms for the deadlines that come in on its standard input.
///
/// # Errors
/// No address, no gate, no deadline.
pub fn be_stopped() -> Result<()> {
    let vip: IpAddr = args().nth(2).context("a VIP")?.parse()?;
    // As the daemon's lane.
    realtime::raise(realtime::LANE);
    let family = if vip.is_ipv4() { Family::V4 } else { Family::V6 };
    let group = [Definition { family, vrid: super::VRID, addresses: vec![vip] }];
    let devices = Devices { vrrp: vec![LAN_NIC.to_owned()], ..Devices::default() };
    let mut gate = Gate::acquire()?.install(GateId(1), &group, &devices)?;
    gate.hold(&group)?;
    println!("{}", if gate.persistent() { "persistent" } else { "not persistent" });
    for line in stdin().lock().lines() {
        let line = line?;
        let (with_sleep, raw) = line.split_once(' ').context("two times")?;
        let at = |text: &str| anyhow::Ok(Duration::from_nanos(text.parse()?));
        match gate.arm(Moment::at(at(with_sleep)?, at(raw)?)) {
            Ok(()) => println!("armed"),
            // The machine was away, and the gate did not open.
            Err(GateError::Late) => println!("late"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The cable, with the process at one end and the client at the other. The process ends when it is dropped.
#[derive(Debug)]
pub struct Cable {
    director: Netns,
    vip: IpAddr,
    wire: Socket,
    question: Vec<u8>,
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    persistent: bool,
}

impl Cable {
    /// Starts this very program once more, with [`ARGUMENT`], in a network namespace of its own.
    ///
    /// # Errors
    /// No privilege, or the process ends.
    pub fn lay(vip: IpAddr) -> Result<Self> {
        let (director, client) = (Netns::new()?, Netns::new()?);
        let target = director.as_raw_fd();
        client.netlink(|handle| async move {
            handle.link().add(LinkVeth::new(LAN_NIC, "far").build()).execute().await?;
            let far = LinkUnspec::new_with_index(link_index(&handle, "far").await?).name(LAN_NIC).setns_by_fd(target);
            handle.link().change(far.build()).execute().await?;
            let near = link_index(&handle, LAN_NIC).await?;
            handle.link().change(LinkUnspec::new_with_index(near).up().build()).execute().await?;
            Ok(())
        })?;
        director.run(|| Ok(std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0")?))?;
        director.netlink(|handle| async move {
            let near = link_index(&handle, LAN_NIC).await?;
            handle.link().change(LinkUnspec::new_with_index(near).up().build()).execute().await?;
            let prefix = if vip.is_ipv4() { super::PREFIX } else { super::PREFIX6 };
            handle.address().add(near, vip, prefix).execute().await?;
            Ok(())
        })?;
        let (wire, mac) = client.run(|| listening(vip))?;
        let question = match vip {
            IpAddr::V4(vip) => {
                Arp { operation: 1, sender: (mac, CLIENT.0), target: ([0; 6], vip) }.frame(BROADCAST).to_vec()
            }
            IpAddr::V6(vip) => Discovery::question(mac, CLIENT.1, vip),
        };
        let mut process = director.run(|| {
            let mut command = Command::new(current_exe()?);
            command.args([ARGUMENT, &vip.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn().context("starting the process that is stopped")
        })?;
        let orders = process.stdin.take().context("its input")?;
        let answers = BufReader::new(process.stdout.take().context("its output")?);
        let mut cable = Self { director, vip, wire, question, process, orders, answers, persistent: false };
        cable.persistent = cable.said()? == "persistent";
        Ok(cable)
    }

    /// Where the process and its gate are.
    #[must_use]
    pub fn director(&self) -> &Netns {
        &self.director
    }

    /// As [`Gate::persistent`].
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    fn said(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the process that is stopped has ended");
        Ok(line.trim().to_owned())
    }

    /// Opens the gate until `deadline`. Not, when the machine was away: then it stays shut, and this is `false`.
    ///
    /// # Errors
    /// The process has ended.
    pub fn arm(&mut self, deadline: Moment) -> Result<bool> {
        let (with_sleep, raw) = deadline.both();
        writeln!(self.orders, "{} {}", with_sleep.as_nanos(), raw.as_nanos())?;
        match self.said()?.as_str() {
            "armed" => Ok(true),
            "late" => Ok(false),
            other => bail!("it said {other}"),
        }
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// It has ended.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// It has ended.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.process.id())?), signal).with_context(|| signal.to_string())
    }

    /// The client asks for the VIP, by ARP or neighbour discovery.
    ///
    /// # Errors
    /// The cable is gone.
    pub fn ask(&self) -> Result<()> {
        self.wire.send(&self.question).map(drop).context("a question")
    }

    /// When the last answer came in since the last call: the kernel's stamp, by the wall clock.
    ///
    /// # Errors
    /// The cable is gone.
    pub fn answered(&self) -> Result<Option<Duration>> {
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let (mut bytes, mut last) = ([0; 128], None);
        loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            let received =
                recvmsg::<LinkAddr>(self.wire.as_raw_fd(), &mut into, Some(&mut control), MsgFlags::MSG_DONTWAIT);
            let message = match received {
                Ok(message) => message,
                Err(nix::Error::EAGAIN) => return Ok(last),
                Err(error) => return Err(error).context("listening"),
            };
            let stamp = message.cmsgs()?.find_map(|control| {
                if let ControlMessageOwned::ScmTimestampns(at) = control { Some(Duration::from(at)) } else { None }
            });
            let length = message.bytes;
            if bytes.get(..length).is_some_and(|frame| self.is_answer(frame)) {
                last = stamp.or(last);
            }
        }
    }

    fn is_answer(&self, frame: &[u8]) -> bool {
        match self.vip {
            IpAddr::V4(vip) => Arp::parse(frame).is_some_and(|said| said.operation == 2 && said.sender.1 == vip),
            IpAddr::V6(vip) => Discovery::parse(frame).is_some_and(|said| !said.asks && said.target == vip),
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // It may have ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The client's socket, and its MAC.
fn listening(vip: IpAddr) -> Result<(Socket, Mac)> {
    const ETH_P_ARP: u16 = 0x0806;
    const ETH_P_IPV6: u16 = 0x86dd;
    let protocol = if vip.is_ipv4() { ETH_P_ARP } else { ETH_P_IPV6 };
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol.to_be()))))?;
    let links = getifaddrs()?.filter(|of| of.interface_name == LAN_NIC);
    let link = links.filter_map(|of| of.address?.as_link_addr().copied()).next().context("the client's interface")?;
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    bind(socket.as_raw_fd(), &link)?;
    Ok((socket, link.addr().context("its address")?))
}
