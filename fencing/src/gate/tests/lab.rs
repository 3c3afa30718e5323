//! A LAN of two hosts for the tests: a director with two interfaces, and a client whose bridge they both hang on.
//!
//! A host is a thread in a network namespace of its own, without a name: it ends with the test, however that ends.

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, bind, recvmsg, setsockopt, sockopt::ReceiveTimestampns,
};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 10);
pub const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);
pub const DIRECTOR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
pub const ECHO: u16 = 7;
/// Longer than any test talks to the echo servers, which end then.
const PATIENCE: Duration = Duration::from_secs(60);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
#[derive(Clone)]
pub struct Host {
    jobs: mpsc::Sender<Job>,
    task: i32,
}

impl Host {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, task) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests make network namespaces: run them as root");
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            queue.iter().for_each(|job| job());
        });
        let task = task.recv().expect("these tests make network namespaces: run them as root");
        let host = Self { jobs, task };
        host.ip("link set lo up");
        host
    }

    /// A name of this host's namespace for `ip`: the thread that is in it.
    pub fn task(&self) -> i32 {
        self.task
    }

    /// Runs `job` in this host's namespace, and passes its panic on.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || {
            // Nobody listens only when the test is over.
            done.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job))).unwrap_or_default();
        };
        self.jobs.send(Box::new(job)).unwrap();
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    pub fn command(&self, program: &str, arguments: &str) -> std::process::Output {
        let (program, arguments) = (program.to_owned(), arguments.to_owned());
        self.run(move || Command::new(program).args(arguments.split_whitespace()).output().unwrap())
    }

    pub fn ip(&self, arguments: &str) {
        let output = self.command("ip", arguments);
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A packet socket on an interface for frames of any (`ETH_P_ALL`) or one protocol.
    pub fn wire(&self, interface: &'static str, protocol: u16) -> Wire {
        self.run(move || {
            let protocol = Protocol::from(i32::from(protocol.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(protocol)).unwrap();
            let address = link(interface);
            setsockopt(&socket, ReceiveTimestampns, &true).unwrap();
            bind(socket.as_raw_fd(), &address).unwrap();
            let wire = Wire { socket, mac: address.addr().unwrap() };
            wire.frames();
            wire
        })
    }
}

fn link(interface: &str) -> LinkAddr {
    let mut links = getifaddrs().unwrap().filter(|i| i.interface_name == interface).filter_map(|i| i.address);
    links.find_map(|address| address.as_link_addr().copied()).unwrap_or_else(|| panic!("no interface {interface}"))
}

/// A packet socket.
pub struct Wire {
    socket: Socket,
    pub mac: [u8; 6],
}

/// What came in, and when by the kernel's stamp on the wall clock.
#[derive(Clone, Debug)]
pub struct Frame {
    pub at: Duration,
    pub bytes: Vec<u8>,
}

impl Wire {
    /// Sends, if the gate lets it: a shut one refuses with ENOBUFS.
    pub fn send(&self, frame: &[u8]) {
        drop(self.socket.send(frame));
    }

    /// What has come in since the last call, without what this host itself sent.
    pub fn frames(&self) -> Vec<Frame> {
        const OUTGOING: u8 = 4;
        let mut frames = Vec::new();
        let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let mut bytes = [0; 2048];
        loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            let Ok(message) =
                recvmsg::<LinkAddr>(self.socket.as_raw_fd(), &mut into, Some(&mut control), MsgFlags::empty())
            else {
                return frames;
            };
            let stamp = message.cmsgs().unwrap().find_map(|control| {
                if let ControlMessageOwned::ScmTimestampns(time) = control { Some(Duration::from(time)) } else { None }
            });
            let own = message.address.is_some_and(|address| address.pkttype() == OUTGOING);
            let length = message.bytes;
            if !own {
                frames.push(Frame { at: stamp.unwrap(), bytes: bytes[..length].to_vec() });
            }
        }
    }

    /// The frames of the next `span`.
    pub fn frames_within(&self, span: Duration) -> Vec<Frame> {
        thread::sleep(span);
        self.frames()
    }
}

pub const ARP: u16 = 0x0806;
pub const ALL: u16 = 3;

/// An ARP packet over Ethernet.
pub fn arp(operation: u8, from: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &from].concat();
    frame.extend([&sender.octets()[..], &[0xff; 6], &target.octets()].concat());
    frame
}

/// Whether the frame is ARP with this sender.
pub fn is_arp_from(frame: &Frame, sender: Ipv4Addr) -> bool {
    frame.bytes.len() >= 42 && frame.bytes[12..14] == [8, 6] && frame.bytes[28..32] == sender.octets()
}

/// Whether the frame is an ARP reply with this sender.
pub fn is_answer(frame: &Frame, sender: Ipv4Addr) -> bool {
    is_arp_from(frame, sender) && frame.bytes[21] == 2
}

/// Whether the frame is IPv4 with this source.
pub fn is_ip_from(frame: &Frame, source: Ipv4Addr) -> bool {
    frame.bytes.len() >= 34 && frame.bytes[12..14] == [8, 0] && frame.bytes[26..30] == source.octets()
}

/// An IPv4 frame with a protocol and a payload.
pub fn ip_frame(from: [u8; 6], source: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut header = [&[0x45, 0xc0], &length[..], &[0, 1, 0, 0, 255, protocol, 0, 0], &source.octets()].concat();
    header.extend([224, 0, 0, 18]);
    let sum = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&[1, 0, 0x5e, 0, 0, 18], &from[..], &[8, 0], &header, payload].concat()
}

/// The director and its client.
pub struct Lan {
    pub director: Host,
    pub client: Host,
}

impl Lan {
    /// `eth0` has the director's own address, both VIPs, and a server that echoes UDP; `eth1` has no address.
    pub fn new() -> Self {
        let (director, client) = (Host::new(), Host::new());
        client.ip("link add br0 type bridge");
        client.ip("link set br0 up");
        for i in 0..2 {
            director.ip(&format!("link add eth{i} type veth peer name p{i} netns {}", client.task));
            client.ip(&format!("link set p{i} master br0 up"));
            director.ip(&format!("link set eth{i} up"));
        }
        client.ip("addr add 10.9.0.100/24 dev br0");
        director.ip("addr add 10.9.0.1/24 dev eth0");
        for vip in [VIP, OTHER_VIP] {
            director.ip(&format!("addr add {vip}/24 dev eth0"));
        }
        for address in [DIRECTOR, VIP, OTHER_VIP] {
            let echo = director.run(move || UdpSocket::bind((address, ECHO)).unwrap());
            echo.set_read_timeout(Some(PATIENCE)).unwrap();
            thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok((length, from)) = echo.recv_from(&mut bytes) {
                    // A shut gate refuses with EPERM: that is what is tested.
                    drop(echo.send_to(&bytes[..length], from));
                }
            });
        }
        let lan = Self { director, client };
        // Until the bridge has both ports forwarding.
        assert!((0..100).any(|_| lan.answers(DIRECTOR) > 0), "the LAN does not come up");
        lan
    }

    /// Makes the director a router, which the client knows by the VIP, to a network behind it.
    pub fn route_by_the_vip(&self) {
        self.director.command("sysctl", "-w net.ipv4.ip_forward=1");
        self.director.ip("link add eth9 type veth peer name eth9x");
        self.director.ip("link set eth9 up");
        self.director.ip("link set eth9x up");
        self.director.ip("addr add 10.8.0.1/24 dev eth9");
        self.director.ip("neigh add 10.8.0.2 lladdr 02:00:00:00:00:02 dev eth9");
        self.client.ip(&format!("route add 10.8.0.0/24 via {VIP}"));
    }

    /// Whether what the client sends to that network gets there `within` this time.
    pub fn passes(&self, within: Duration) -> bool {
        let far = self.director.wire("eth9x", ALL);
        self.client.run(|| UdpSocket::bind((CLIENT, 0)).unwrap().send_to(b"through", ("10.8.0.2", 9)).unwrap());
        far.frames_within(within).iter().any(|frame| is_ip_from(frame, CLIENT))
    }

    /// How many of three ARP requests from the client are answered, on any way.
    pub fn answers(&self, target: Ipv4Addr) -> usize {
        let wire = self.client.wire("br0", ARP);
        (0..3)
            .filter(|_| {
                wire.send(&arp(1, wire.mac, CLIENT, target));
                wire.frames_within(Duration::from_millis(20)).iter().any(|frame| is_answer(frame, target))
            })
            .count()
    }

    /// Whether the client's UDP datagram to `target` comes back, with ARP out of the way.
    pub fn echoes(&self, target: Ipv4Addr) -> bool {
        let mac = self.director.run(|| link("eth0").addr().unwrap()).map(|byte| format!("{byte:02x}")).join(":");
        self.client.ip(&format!("neigh replace {target} lladdr {mac} dev br0 nud permanent"));
        let echoed = self.client.run(move || {
            let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket.send_to(b"hello", (target, ECHO)).unwrap();
            socket.recv_from(&mut [0; 64]).is_ok_and(|(_, from)| from.ip() == target)
        });
        self.client.ip(&format!("neigh del {target} dev br0"));
        echoed
    }
}

pub fn clock(id: ClockId) -> Duration {
    let time = clock_gettime(id);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Another process in the director's namespace that has the gate, and does what it is told.
pub struct Process {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

/// Set for a process that is one of these.
pub const OBEDIENT: &str = "HAMESH_GATE_OBEDIENT";

impl Process {
    pub fn start(host: &Host) -> Self {
        let mut child = host.run(|| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "gate::tests::obedient", "--nocapture", "--test-threads=1"])
                .env(OBEDIENT, "yes")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, answers }
    }

    /// Tells it something and waits for its answer.
    pub fn tell(&mut self, order: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{order}").unwrap();
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the process is gone after: {order}");
            // The test harness talks too.
            if let Some(answer) = line.trim().strip_prefix("> ") {
                return answer.to_owned();
            }
        }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let process = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(process, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
